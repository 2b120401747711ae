//! From any state to any table, against a model of HAProxy that changes addresses late and runs
//! health checks when it likes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::commands::sync_haproxy::predict::predict;
use crate::commands::sync_haproxy::testing::{
    at, backend_spec, endpoint, held, named, table, target,
};
use crate::haproxy::AdminFlags;
use crate::model::{BackendSpec, Endpoint, Ramp, SlotState};
use crate::tables::{Held, Left, Table};

const SLOTS: u32 = 5;

/// Before the first step of a ramp, and from one step to the next, in milliseconds.
const EARLY: i64 = 5_000;
const STEP: i64 = 10_000;

/// A HAProxy backend.
#[derive(Debug)]
struct Model {
    servers: Vec<ObservedServer>,
    /// Addresses that were accepted and do not show yet: how many observations they still take.
    late: BTreeMap<String, (ServerAddress, u8)>,
    lag: u8,
    /// Servers that passed a check since they left maint.
    verified: BTreeSet<String>,
    static_weights: bool,
}

impl Model {
    fn observe(&mut self) -> Vec<ObservedServer> {
        for (name, (address, wait)) in &mut self.late {
            if *wait == 0
                && let Some(server) = self.servers.iter_mut().find(|s| s.name == *name)
            {
                server.address = Some(address.ip());
                server.port = address.port();
            }
            *wait = wait.saturating_sub(1);
        }
        self.late.retain(|name, (address, _)| {
            self.servers.iter().any(|s| s.name == *name && !shows(s, *address))
        });
        self.servers.clone()
    }

    fn pass_checks(&mut self) {
        for server in &mut self.servers {
            if server.check_enabled && server.admin.state() != AdminState::Maint {
                server.operational = 2;
                self.verified.insert(server.name.clone());
            }
        }
    }

    /// Whether it is somebody's who did not mean lbctl.
    fn is_foreign(&self, server: &ObservedServer, target: &Target) -> bool {
        target.mode == Mode::Slots && server.admin.0 & 4 == 0
    }

    fn serves(&self) -> bool {
        self.servers.iter().any(is_in_service)
    }

    /// Whether a server that is to drain takes traffic while another one is to come.
    fn last_to_drain(&self, wanted: &Wanted, target: &Target) -> bool {
        let of = |slot| self.servers.iter().find(|s| s.name == format!("srv{slot}"));
        let drains = |(slot, desired): (SlotNumber, Desired)| match desired {
            Desired::Drain { address } => {
                of(slot).is_some_and(|s| is_in_service(s) && shows(s, address))
            }
            _ => false,
        };
        let comes = |(slot, desired): (SlotNumber, Desired)| match desired {
            Desired::Ready { target: weight, .. } => {
                let none = |s: &ObservedServer| self.static_weights && s.initial_weight == 0;
                let place = of(slot).map_or(target.mode != Mode::Slots, |server| !none(server));
                weight > Weight::ZERO && place
            }
            _ => false,
        };
        wanted.held().any(drains) && wanted.held().any(comes)
    }

    /// Whether the command was accepted; panics where it would harm live traffic.
    fn apply(&mut self, command: &Command) -> bool {
        let name = command.server().server.to_string();
        let server = self.servers.iter().find(|s| s.name == name).cloned();
        match (command, &server) {
            (Command::SetAddress { address, .. }, Some(server)) => {
                assert_eq!(server.admin.state(), AdminState::Maint, "addr under live {name}");
                let same = self.late.get(&name).is_some_and(|(late, _)| late == address);
                if !same {
                    self.late.insert(name, (*address, self.lag));
                }
                return true;
            }
            (Command::SetState { state: AdminState::Maint, .. }, Some(_)) => {
                self.verified.remove(&name);
            }
            (Command::SetState { .. }, Some(_)) => {
                assert!(
                    !self.late.contains_key(&name),
                    "{name} left maint before its address came"
                );
            }
            (Command::SetWeight { weight, .. }, Some(server)) => {
                let taken = [0, server.initial_weight].contains(&weight.get());
                if self.static_weights && !taken {
                    return false;
                }
            }
            (Command::DelServer { .. }, Some(server)) => {
                assert_eq!(server.admin.state(), AdminState::Maint, "del of live {name}");
                if server.sessions != Some(0) {
                    return false;
                }
            }
            (Command::AddServer { .. }, None) => {}
            (_, Some(_)) => {}
            (_, None) => panic!("{command} names a server that is not there"),
        }
        predict(&mut self.servers, command);
        self.assert_gated(&name, command);
        true
    }

    /// No request meets a server that never passed a check.
    fn assert_gated(&self, name: &str, command: &Command) {
        let Some(server) = self.servers.iter().find(|s| s.name == name) else { return };
        let serves = is_in_service(server);
        let gated = !server.check_enabled || self.verified.contains(name);
        let only_way = self.static_weights && matches!(command, Command::SetState { .. });
        assert!(!serves || gated || only_way, "{command} made an unchecked server serve");
    }
}

fn is_in_service(server: &ObservedServer) -> bool {
    server.admin.state() == AdminState::Ready && server.weight > 0 && server.operational != 0
}

/// What comes between two rounds.
#[derive(Debug, Clone, Copy)]
struct Between {
    checks: bool,
    /// A step of the ramps.
    step: bool,
}

/// Panics where a server would leave that nobody sends away: said once more, and apart from the
/// planner.
fn assert_ordered(model: &Model, target: &Target, table: &Table, action: &Action) {
    let ends = match &action.command {
        Command::SetState { state, .. } => *state != AdminState::Ready,
        Command::DelServer { .. } | Command::SetAddress { .. } => true,
        _ => false,
    };
    let name = action.command.server().server.to_string();
    let Some(server) = model.servers.iter().find(|server| server.name == name) else { return };
    if !ends || server.admin.state() == AdminState::Maint {
        return;
    }
    assert!(!model.is_foreign(server, target), "{:?}: {server:?} is not ours", action.command);
    let says = |at: ServerAddress, states: &[SlotState]| {
        let mut held = table.slots.iter().filter_map(|(slot, held)| match held {
            Held::By(record) => Some((slot, record)),
            Held::Unknown => None,
        });
        held.any(|(slot, r)| {
            // A place of a record that is drained shows its own server.
            let own = *slot == action.slot && r.state == SlotState::Ready;
            !own && r.endpoint.address == at && states.contains(&r.state)
        })
    };
    let left = match table.removed.get(&action.slot) {
        Some(Left::Servers(left)) => left.as_slice(),
        _ => &[],
    };
    let shown = (1..4).map(address).find(|address| shows(server, *address)).unwrap();
    let sent = says(shown, &[SlotState::Drain, SlotState::Rest]) || left.contains(&shown);
    let nobody = server.admin.state() == AdminState::Drain && server.sessions == Some(0);
    let moves = says(shown, &[SlotState::Ready]);
    assert!(table.confirmed, "{:?}: nobody leads", action.command);
    assert!(sent || nobody || moves, "{:?}: {server:?} has no order to go", action.command);
}

/// Rounds as the driver makes them, until there is nothing to do; with what is wanted then.
fn converge(
    model: &mut Model,
    target: &Target,
    table: &Table,
    between: &[Between],
) -> (Plan, Wanted) {
    let mut learnt = Learnt::default();
    let mut now = EARLY;
    for round in 0..48 {
        let wanted = Wanted::compute(table, target, at(now));
        let observed = model.observe();
        let next = plan(target, &wanted, Some(&observed), &learnt);
        if next.actions.is_empty() {
            let moves = next.unordered.values().any(|kept| kept.why == Why::Moves);
            if next.held.is_empty() && (!moves || round > 40) {
                return (next, wanted);
            }
            // What they wait for.
            model.pass_checks();
            now += STEP;
        }
        let last = model.last_to_drain(&wanted, target);
        for action in &next.actions {
            assert_ordered(model, target, table, action);
            let Action { slot, command } = action;
            let accepted = model.apply(command);
            match command {
                Command::SetWeight { .. } if !accepted => learnt.static_weights = true,
                Command::DelServer { .. } if !accepted => {
                    learnt.refused.insert(*slot, "still has connections".into());
                }
                _ => assert!(accepted, "{command} was refused"),
            }
        }
        assert!(!last || model.serves(), "{:?} left no server up", next.actions);
        if let Some(between) = between.get(round) {
            if between.checks {
                model.pass_checks();
            }
            now += if between.step { STEP } else { 0 };
        }
    }
    panic!("no end after 48 rounds: {model:?}");
}

/// What it means to be right, said once more and apart from the planner.
fn is_right(desired: Desired, server: Option<&ObservedServer>, static_weights: bool) -> bool {
    let state = server.map(|s| s.admin.state());
    match (desired, server) {
        (Desired::KeepAsIs, _) | (Desired::Maint | Desired::Free, None) => true,
        (Desired::Maint | Desired::Free, Some(_)) => state == Some(AdminState::Maint),
        (_, None) => false,
        (Desired::Drain { address }, Some(server)) => {
            state == Some(AdminState::Drain) && shows(server, address)
        }
        (Desired::Ready { address, weight, .. }, Some(server)) => {
            let weight = match weight.get() {
                0 => 0,
                _ if static_weights => server.initial_weight,
                weight => weight,
            };
            state == Some(AdminState::Ready) && shows(server, address) && server.weight == weight
        }
    }
}

fn address(number: u8) -> ServerAddress {
    format!("10.0.0.{number}:80").parse().unwrap()
}

fn any_server(number: u32) -> impl Strategy<Value = ObservedServer> {
    let admin = prop::sample::select(vec![0u32, 1, 4, 4, 4, 5, 5, 8, 12, 12]);
    (1u8..4, admin, 0u16..3, any::<(bool, bool)>(), 0u64..2).prop_map(
        move |(at, admin, weight, (checked, up), sessions)| ObservedServer {
            id: number,
            address: Some(address(at).ip()),
            admin: AdminFlags(admin),
            // Nothing takes a server out that has no checks.
            operational: if up || !checked { 2 } else { 0 },
            weight,
            initial_weight: 1,
            checked,
            check_enabled: checked,
            sessions: Some(sessions),
            ..named(&format!("srv{number}"))
        },
    )
}

fn any_servers(count: u32) -> impl Strategy<Value = Vec<ObservedServer>> {
    (1..=count).map(any_server).collect::<Vec<_>>()
}

fn any_held() -> impl Strategy<Value = Option<Held>> {
    let state = prop::sample::select(vec![SlotState::Ready, SlotState::Drain, SlotState::Rest]);
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Held::Unknown)),
        4 => (1u8..4, state, 0u64..3).prop_map(|(at, state, weight)| {
            let weight = Some(Weight::saturating(weight));
            Some(held(Endpoint { address: address(at), weight, ..endpoint("e") }, state))
        }),
    ]
}

fn any_left() -> impl Strategy<Value = Option<Left>> {
    let servers = prop::collection::vec((1u8..4).prop_map(address), 0..3);
    prop::option::of(servers.prop_map(Left::Servers))
}

fn any_table() -> impl Strategy<Value = Table> {
    let slots = prop::collection::vec(any_held(), SLOTS as usize);
    let removed = prop::collection::vec(any_left(), SLOTS as usize);
    (slots, removed, prop::bool::weighted(0.9), 0u64..2).prop_map(
        |(slots, removed, confirmed, min)| {
            let numbered = (1..).zip(slots).filter_map(|(n, held)| Some((n, held?)));
            let one = Weight::saturating(1);
            let ramp = Ramp { min: Weight::saturating(min), step: one, ..Ramp::default() };
            let spec = BackendSpec { ramp, ..backend_spec(SLOTS) };
            let removed = SlotNumber::first(SLOTS).zip(removed);
            let removed = removed.filter_map(|(slot, left)| Some((slot, left?))).collect();
            Table { spec, removed, confirmed, ..table(&numbered.collect::<Vec<_>>()) }
        },
    )
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Slots),
        Just(Mode::Dynamic(Dynamic { options: "check".into(), id_base: 0 })),
    ]
}

fn any_between() -> impl Strategy<Value = Between> {
    any::<(bool, bool)>().prop_map(|(checks, step)| Between { checks, step })
}

proptest! {
    #[test]
    fn any_state_becomes_what_the_table_says_without_harm_on_the_way(
        servers in any_servers(SLOTS + 1),
        present in prop::collection::vec(any::<bool>(), SLOTS as usize + 1),
        table in any_table(),
        mode in any_mode(),
        lag in 0u8..3,
        between in prop::collection::vec(any_between(), 16),
        static_weights in any::<bool>(),
    ) {
        let dynamic = mode != Mode::Slots;
        let target = Target { mode, ..target() };
        let servers: Vec<ObservedServer> = servers
            .into_iter()
            .zip(present)
            .filter(|(_, present)| *present || !dynamic)
            // A static algorithm never let it have another weight.
            .map(|(server, _)| match static_weights {
                true => ObservedServer { weight: server.weight.min(1), ..server },
                false => server,
            })
            .collect();
        // A server that is up at the start has passed its checks, whoever gave it weight 0.
        let verified = servers.iter().filter(|s| s.operational != 0);
        let verified = verified.map(|s| s.name.clone()).collect();
        let before = servers.clone();
        let mut model = Model { servers, late: BTreeMap::new(), lag, verified, static_weights };
        let (end, wanted) = converge(&mut model, &target, &table, &between);

        let find = |servers: &[ObservedServer], slot: SlotNumber| {
            servers.iter().find(|s| s.name == format!("srv{slot}")).cloned()
        };
        for slot in SlotNumber::first(SLOTS + 1) {
            let (desired, server) = (wanted.of(slot), find(&model.servers, slot));
            let before = find(&before, slot);
            if let Some(server) = &server
                && (model.is_foreign(server, &target) || end.unordered.contains_key(&slot))
            {
                let untouched = |s: &ObservedServer| (s.admin.state(), s.address);
                prop_assert_eq!(before.as_ref().map(untouched), Some(untouched(server)));
                continue;
            }
            prop_assert!(
                is_right(desired, server.as_ref(), static_weights),
                "slot {} wants {:?} and is {:?}", slot, desired, server
            );
            if desired == Desired::KeepAsIs {
                // Its checks may have run, which is not our doing.
                let untouched = |s: Option<ObservedServer>| s.map(|s| (s.admin, s.weight, s.address));
                prop_assert_eq!(untouched(server), untouched(before));
            }
        }
        let waits = |slot: &SlotNumber| end.unordered.contains_key(slot) || end.unplaced.contains(slot);
        prop_assert!(end.drift.iter().all(waits), "drift {:?}", end.drift);
        // A second look finds nothing to do.
        let learnt = Learnt { static_weights: model.static_weights, ..Learnt::default() };
        let observed = model.observe();
        let again = plan(&target, &wanted, Some(&observed), &learnt);
        prop_assert!(
            again.actions.iter().all(|a| matches!(a.command, Command::DelServer { .. })),
            "{:?}", again.actions
        );
    }

    #[test]
    fn a_slot_that_is_right_gets_no_command(
        servers in any_servers(SLOTS),
        table in any_table(),
        steps in 0i64..3,
    ) {
        let wanted = Wanted::compute(&table, &target(), at(EARLY + steps * STEP));
        let plan = plan(&target(), &wanted, Some(&servers), &Learnt::default());
        for (slot, server) in SlotNumber::first(SLOTS).zip(&servers) {
            let touched = plan.actions.iter().any(|a| a.slot == slot);
            let right = is_right(wanted.of(slot), Some(server), false);
            if server.admin.0 & 4 == 0 {
                prop_assert!(!touched, "slot {} is somebody's: {:?}", slot, server);
                continue;
            }
            let kept = plan.unordered.contains_key(&slot);
            prop_assert_eq!(
                touched || plan.held.contains(&slot) || kept,
                !right,
                "slot {}: {:?}", slot, server
            );
            prop_assert_eq!(plan.drift.contains(&slot) || kept, !right);
        }
    }
}
