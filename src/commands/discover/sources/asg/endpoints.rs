//! Which instances of Auto Scaling groups are servers: pure.

use std::collections::BTreeMap;

use super::options::{AsgOptions, InstanceAddress};
use crate::aws::ec2::Instance;
use crate::commands::discover::plan::Answer;
use crate::model::{Endpoint, EndpointId, GroupName, ServerAddress};

/// One Auto Scaling group as AWS describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub name: String,
    pub members: Vec<Member>,
}

/// An instance of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The instance's id.
    pub id: String,
    pub zone: String,
    /// Auto Scaling's lifecycle state, such as `InService` or `Terminating:Wait`.
    pub lifecycle: String,
    pub healthy: bool,
}

/// What a lifecycle state means for a server: "Amazon EC2 Auto Scaling instance lifecycle" of the
/// user guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It takes traffic.
    Serves,
    /// It has yet to begin, be it in a warm pool.
    NotYet,
    /// It takes no more traffic: it ends, or somebody has taken it out.
    Leaves,
}

impl Member {
    fn life(&self) -> Life {
        let lifecycle = self.lifecycle.as_str();
        let starts = |word| lifecycle.starts_with(word);
        if lifecycle == "InService" {
            Life::Serves
        } else if ["Terminat", "EnteringStandby", "Standby", "Detach"].into_iter().any(starts) {
            Life::Leaves
        } else {
            // Pending, Pending:Wait, Pending:Proceed, Quarantined, Warmed:….
            Life::NotYet
        }
    }

    /// Its end waits until a lifecycle hook is completed.
    pub(super) fn waits(&self) -> bool {
        self.lifecycle == "Terminating:Wait"
    }

    /// EC2 has to be asked about it.
    pub(super) fn is_of_interest(&self) -> bool {
        self.life() != Life::NotYet
    }
}

/// The servers of groups, as EC2 describes their instances. What EC2 does not describe, or not
/// fully, is neither placed nor removed.
pub(super) fn answer(
    groups: &[Group],
    instances: &BTreeMap<String, Instance>,
    options: &AsgOptions,
) -> Answer {
    let ended = instances.values().filter(|instance| instance.has_ended());
    let ended = ended.filter_map(|instance| instance.id.parse().ok()).collect();
    let mut answer = Answer { ended, ..Answer::default() };
    for group in groups {
        let name = group.name.parse::<GroupName>();
        if let Err(error) = &name {
            answer.notes.push(format!("group {:?} is shown without its name: {error}", group.name));
        }
        let name = name.ok();
        for member in group.members.iter().filter(|member| member.is_of_interest()) {
            take(&mut answer, member, name.as_ref(), instances.get(&member.id), options);
        }
    }
    answer
}

fn take(
    answer: &mut Answer,
    member: &Member,
    group: Option<&GroupName>,
    instance: Option<&Instance>,
    options: &AsgOptions,
) {
    let Ok(id) = member.id.parse::<EndpointId>() else {
        answer.notes.push(format!("instance {:?} has an id that cannot be used", member.id));
        return;
    };
    let leaving = member.life() == Life::Leaves;
    if member.waits() && options.complete_lifecycle.is_some() {
        answer.awaiting.insert(id.clone());
    }
    if !leaving && !member.healthy && !options.serve_unhealthy {
        answer.notes.push(format!("instance {id} is unhealthy"));
        return;
    }
    match instance.map(|instance| (instance.state.as_str(), instance)) {
        // Just launched, or EC2 does not know it any more: Auto Scaling will say which.
        None | Some(("pending", _)) if !leaving => _ = answer.unreadable.insert(id),
        None => _ = answer.leaving.insert(id),
        Some((state, _)) if state != "running" && !leaving => {
            answer.notes.push(format!("instance {id} is {state}"));
        }
        Some((_, instance)) => match address(instance, options) {
            Ok(address) => {
                let zone = member.zone.parse().ok();
                let (name, weight, group) = (None, None, group.cloned());
                let endpoint =
                    Endpoint { id: id.clone(), address, name, group, zone, weight, leaving };
                answer.endpoints.insert(id, endpoint);
            }
            // It need not be reached any more: its slot drains at the address it has.
            Err(_) if leaving => _ = answer.leaving.insert(id),
            Err(error) => {
                answer.notes.push(format!("instance {id} {error}"));
                answer.unreadable.insert(id);
            }
        },
    }
}

fn address(instance: &Instance, options: &AsgOptions) -> Result<ServerAddress, String> {
    let (ip, kind) = match options.address {
        InstanceAddress::PrivateIp => (&instance.private_ip, "private IP"),
        InstanceAddress::PublicIp => (&instance.public_ip, "public IP"),
        InstanceAddress::Ipv6 => (&instance.ipv6, "IPv6"),
    };
    let ip = ip.as_ref().ok_or_else(|| format!("has no {kind} address"))?;
    let ip = ip.parse().map_err(|_| format!("has an address that is none: {ip:?}"))?;
    let tag = options.port_tag.as_ref().and_then(|key| Some((key, instance.tags.get(key)?)));
    let port = match tag {
        None => options.port,
        Some((key, text)) => {
            text.trim().parse().map_err(|_| format!("has tag {key}={text:?}, which is no port"))?
        }
    };
    ServerAddress::new(ip, port).map_err(|error| format!("cannot be reached: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, lifecycle: &str, healthy: bool) -> Member {
        let (zone, lifecycle) = ("eu-west-1a".into(), lifecycle.into());
        Member { id: id.into(), zone, lifecycle, healthy }
    }

    fn running(id: &str) -> Instance {
        Instance {
            id: id.into(),
            state: "running".into(),
            private_ip: Some("10.0.0.1".into()),
            public_ip: None,
            ipv6: Some("2001:db8::1".into()),
            tags: [("port".to_owned(), "8080".to_owned()), ("bad".to_owned(), "x".to_owned())]
                .into(),
        }
    }

    fn of(members: Vec<Member>, instances: &[Instance], options: &AsgOptions) -> Answer {
        let group = Group { name: "web".into(), members };
        let instances = instances.iter().map(|i| (i.id.clone(), i.clone())).collect();
        answer(&[group], &instances, options)
    }

    /// What became of instance `i`: its address and whether it leaves, `unreadable`, that it leaves
    /// from where nobody tells, or nothing.
    fn became(lifecycle: &str, healthy: bool, instance: Option<Instance>) -> String {
        let answer = of(
            vec![member("i", lifecycle, healthy)],
            &instance.into_iter().collect::<Vec<_>>(),
            &AsgOptions::default(),
        );
        let id: EndpointId = "i".parse().unwrap();
        let sets = [&answer.unreadable, &answer.leaving].map(|set| set.contains(&id));
        match (answer.endpoints.get(&id), sets) {
            (Some(endpoint), [false, false]) => {
                format!("{}{}", endpoint.address, if endpoint.leaving { " leaves" } else { "" })
            }
            (None, [true, false]) => "unreadable".into(),
            (None, [false, true]) => "leaves".into(),
            (None, [false, false]) => "absent".into(),
            several => panic!("{several:?}"),
        }
    }

    #[test]
    fn only_what_is_in_service_running_and_healthy_serves() {
        let state = |state: &str| Instance { state: state.into(), ..running("i") };
        let terminated = Instance { private_ip: None, ipv6: None, ..state("terminated") };
        for (lifecycle, healthy, instance, expected) in [
            ("InService", true, Some(running("i")), "10.0.0.1:80"),
            ("InService", false, Some(running("i")), "absent"),
            ("InService", true, Some(state("pending")), "unreadable"),
            ("InService", true, None, "unreadable"),
            ("InService", true, Some(state("stopped")), "absent"),
            ("InService", true, Some(state("shutting-down")), "absent"),
            ("Pending", true, Some(running("i")), "absent"),
            ("Pending:Wait", true, Some(running("i")), "absent"),
            ("Warmed:Stopped", true, Some(state("stopped")), "absent"),
            ("Quarantined", true, Some(running("i")), "absent"),
            ("Standby", true, Some(running("i")), "10.0.0.1:80 leaves"),
            ("EnteringStandby", false, Some(running("i")), "10.0.0.1:80 leaves"),
            ("Detaching", true, Some(running("i")), "10.0.0.1:80 leaves"),
            ("Terminating", true, Some(state("shutting-down")), "10.0.0.1:80 leaves"),
            ("Terminating:Wait", false, Some(running("i")), "10.0.0.1:80 leaves"),
            ("Terminating:Wait", true, None, "leaves"),
            ("Terminated", false, Some(terminated), "leaves"),
            ("Standby", true, None, "leaves"),
            ("Terminating:Proceed", true, Some(running("i")), "10.0.0.1:80 leaves"),
            ("SomethingNew", true, Some(running("i")), "absent"),
        ] {
            assert_eq!(became(lifecycle, healthy, instance), expected, "{lifecycle} {healthy}");
        }
    }

    #[test]
    fn group_and_zone_travel_with_the_server() {
        let answer =
            of(vec![member("i", "InService", true)], &[running("i")], &AsgOptions::default());
        let endpoint = answer.endpoints.values().next().unwrap();
        assert_eq!(endpoint.group.as_ref().unwrap().as_str(), "web");
        assert_eq!(endpoint.zone.as_ref().unwrap().as_str(), "eu-west-1a");
        let member = || vec![member("i", "InService", true)];
        let instances = [("i".to_owned(), running("i"))].into();
        let odd = Group { name: "web/a ~#(=&)".into(), members: member() };
        let odd = super::answer(&[odd], &instances, &AsgOptions::default());
        let group = odd.endpoints.values().next().unwrap().group.clone();
        assert_eq!((group.unwrap().as_str(), odd.notes.len()), ("web/a ~#(=&)", 0));
        let group = Group { name: "web\ngroup".into(), members: member() };
        let odd = super::answer(&[group], &instances, &AsgOptions::default());
        assert_eq!(odd.endpoints.values().next().unwrap().group, None);
        assert!(odd.notes[0].contains("web\\ngroup"), "{:?}", odd.notes);
    }

    #[test]
    fn address_and_port_are_those_of_the_options_or_a_note_says_why_not() {
        let default = AsgOptions::default();
        let with = |change: fn(&mut AsgOptions)| {
            let mut options = default.clone();
            change(&mut options);
            let answer = of(vec![member("i", "InService", true)], &[running("i")], &options);
            match answer.endpoints.values().next() {
                Some(endpoint) => endpoint.address.to_string(),
                None => {
                    assert!(answer.unreadable.contains(&"i".parse().unwrap()));
                    answer.notes.join("; ")
                }
            }
        };
        assert_eq!(with(|o| o.port = 81), "10.0.0.1:81");
        assert_eq!(with(|o| o.port_tag = Some("port".into())), "10.0.0.1:8080");
        assert_eq!(with(|o| o.port_tag = Some("none".into())), "10.0.0.1:80");
        assert!(with(|o| o.port_tag = Some("bad".into())).contains("bad=\"x\""));
        assert_eq!(with(|o| o.address = InstanceAddress::Ipv6), "[2001:db8::1]:80");
        assert!(with(|o| o.address = InstanceAddress::PublicIp).contains("no public IP"));
    }

    #[test]
    fn an_unhealthy_one_serves_where_that_is_wanted() {
        let options = AsgOptions { serve_unhealthy: true, ..AsgOptions::default() };
        let answer = of(vec![member("i", "InService", false)], &[running("i")], &options);
        assert_eq!(answer.endpoints.len(), 1);
    }

    #[test]
    fn only_those_that_wait_for_a_hook_await_the_end() {
        let members = || {
            vec![
                member("a", "Terminating:Wait", true),
                member("b", "Terminating", true),
                member("c", "InService", true),
            ]
        };
        let instances = ["a", "b", "c"].map(running);
        assert!(of(members(), &instances, &AsgOptions::default()).awaiting.is_empty());
        let hook = Some("drain".to_owned());
        let options = AsgOptions { complete_lifecycle: hook, ..AsgOptions::default() };
        let awaiting = of(members(), &instances, &options).awaiting;
        assert_eq!(awaiting, ["a".parse().unwrap()].into());
    }
}
