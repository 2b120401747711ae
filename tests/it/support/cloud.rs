//! Auto Scaling groups in moto.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::moto::{Moto, REGION};

/// A network of a test's own in moto, whose addresses are loopback's, so that servers can be there.
#[derive(Debug)]
pub struct Cloud {
    pub moto: Arc<Moto>,
    /// Makes the names of this test's groups its own.
    tag: String,
    subnet: String,
}

impl Cloud {
    /// `None` where moto is not there.
    pub fn new() -> Option<Self> {
        Some(Self::on(Moto::shared_groups()?))
    }

    pub fn on(moto: Arc<Moto>) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let second = 100 + NEXT.fetch_add(1, Ordering::SeqCst);
        let tag = format!("{:08x}", fastrand::u32(..));
        let mut cloud = Self { moto, tag, subnet: String::new() };
        let cidr = format!("127.{second}.0.0/16");
        let vpc = cloud.ec2(&[("Action", "CreateVpc"), ("CidrBlock", &cidr)]);
        let vpc = text(&vpc, "vpcId");
        let zone = format!("{REGION}a");
        let subnet = cloud.ec2(&[
            ("Action", "CreateSubnet"),
            ("VpcId", &vpc),
            ("CidrBlock", &cidr),
            ("AvailabilityZone", &zone),
        ]);
        cloud.subnet = text(&subnet, "subnetId");
        let name = cloud.name("launch");
        cloud.autoscaling(&[
            ("Action", "CreateLaunchConfiguration"),
            ("LaunchConfigurationName", &name),
            ("ImageId", "ami-12c6146b"),
            ("InstanceType", "t3.nano"),
        ]);
        cloud
    }

    /// A name that no other test has.
    pub fn name(&self, name: &str) -> String {
        format!("{name}-{}", self.tag)
    }

    /// A new group of running instances in the test's network.
    pub fn group(&self, name: &str, size: u32) -> String {
        self.group_in(name, size, &[("VPCZoneIdentifier", &self.subnet)])
    }

    /// A new group of running instances elsewhere.
    pub fn group_in(&self, name: &str, size: u32, place: &[(&str, &str)]) -> String {
        let (name, launch) = (self.name(name), self.name("launch"));
        let size = size.to_string();
        let mut fields = vec![
            ("Action", "CreateAutoScalingGroup"),
            ("AutoScalingGroupName", &name),
            ("LaunchConfigurationName", &launch),
            ("MinSize", "0"),
            ("MaxSize", "1000"),
            ("DesiredCapacity", &size),
        ];
        fields.extend(place);
        self.autoscaling(&fields);
        name
    }

    pub fn delete(&self, group: &str) {
        self.autoscaling(&[
            ("Action", "DeleteAutoScalingGroup"),
            ("AutoScalingGroupName", group),
            ("ForceDelete", "true"),
        ]);
    }

    pub fn scale(&self, group: &str, size: u32) {
        let size = size.to_string();
        self.autoscaling(&[
            ("Action", "SetDesiredCapacity"),
            ("AutoScalingGroupName", group),
            ("DesiredCapacity", &size),
        ]);
    }

    /// Ends an instance; moto puts another in its place once the group is scaled.
    pub fn terminate(&self, instance: &str, and_shrink: bool) {
        self.autoscaling(&[
            ("Action", "TerminateInstanceInAutoScalingGroup"),
            ("InstanceId", instance),
            ("ShouldDecrementDesiredCapacity", if and_shrink { "true" } else { "false" }),
        ]);
    }

    pub fn standby(&self, group: &str, instance: &str, away: bool) {
        let mut fields = vec![
            ("Action", if away { "EnterStandby" } else { "ExitStandby" }),
            ("AutoScalingGroupName", group),
            ("InstanceIds.member.1", instance),
        ];
        if away {
            fields.push(("ShouldDecrementDesiredCapacity", "true"));
        }
        self.autoscaling(&fields);
    }

    pub fn set_health(&self, instance: &str, health: &str) {
        self.autoscaling(&[
            ("Action", "SetInstanceHealth"),
            ("InstanceId", instance),
            ("HealthStatus", health),
        ]);
    }

    pub fn tag_instance(&self, instance: &str, key: &str, value: &str) {
        self.ec2(&[
            ("Action", "CreateTags"),
            ("ResourceId.1", instance),
            ("Tag.1.Key", key),
            ("Tag.1.Value", value),
        ]);
    }

    pub fn tag_group(&self, group: &str, key: &str, value: &str) {
        self.autoscaling(&[
            ("Action", "CreateOrUpdateTags"),
            ("Tags.member.1.ResourceId", group),
            ("Tags.member.1.ResourceType", "auto-scaling-group"),
            ("Tags.member.1.Key", key),
            ("Tags.member.1.Value", value),
            ("Tags.member.1.PropagateAtLaunch", "false"),
        ]);
    }

    /// The instances of a group that are in service, with their private addresses.
    pub fn in_service(&self, group: &str) -> BTreeMap<String, String> {
        let described = self.autoscaling(&[
            ("Action", "DescribeAutoScalingGroups"),
            ("AutoScalingGroupNames.member.1", group),
        ]);
        let members = described.split("<member>").filter(|part| part.contains("<LifecycleState>"));
        let serving = members.filter(|part| part.contains("<LifecycleState>InService<"));
        let ids: Vec<String> = serving.map(|part| text(part, "InstanceId")).collect();
        ids.iter().map(|id| (id.clone(), self.address(id))).collect()
    }

    fn address(&self, instance: &str) -> String {
        let described = self.ec2(&[("Action", "DescribeInstances"), ("InstanceId.1", instance)]);
        text(&described, "privateIpAddress")
    }

    pub fn autoscaling(&self, fields: &[(&str, &str)]) -> String {
        self.call("autoscaling", "2011-01-01", fields)
    }

    pub fn ec2(&self, fields: &[(&str, &str)]) -> String {
        self.call("ec2", "2016-11-15", fields)
    }

    /// One call of a query API; moto goes by the scope of the signature, and does not check it.
    fn call(&self, service: &str, version: &str, fields: &[(&str, &str)]) -> String {
        let pairs = fields.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
        let body = [format!("Version={version}")].into_iter().chain(pairs).collect::<Vec<_>>();
        let body = body.join("&");
        let mut stream = TcpStream::connect(("127.0.0.1", self.moto.port())).unwrap();
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: {service}.{REGION}.amazonaws.com\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=testing/20260101/{REGION}/{service}/aws4_request, \
             SignedHeaders=host, Signature=x\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{body}\n{answer}");
        answer
    }
}

/// The text of the first element of a name.
fn text(xml: &str, name: &str) -> String {
    let (start, end) = (format!("<{name}>"), format!("</{name}>"));
    let rest = xml.split_once(&start).unwrap_or_else(|| panic!("no {start} in {xml}")).1;
    rest.split_once(&end).unwrap().0.to_owned()
}

/// A value as it may stand in a form.
fn encoded(value: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}
