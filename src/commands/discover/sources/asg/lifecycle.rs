use std::collections::{BTreeMap, BTreeSet};

use super::endpoints::Group;
use super::region::Region;
use crate::aws::{Failure, FailureKind};
use crate::commands::discover::sources::metrics::aws_call;
use crate::daemon::Health;
use crate::model::EndpointId;

/// So many looks after its completion no instance is seen waiting, unless another hook holds it.
const STILL: u32 = 6;

/// Completes the lifecycle action of instances that wait for it, once each.
///
/// AWS keeps what must not be lost: an instance waits until its action is completed, whoever does
/// it, and does not wait any more afterwards. A process that dies before the call leaves it to the
/// next leader, and one that dies after it has nothing to leave.
#[derive(Debug)]
pub(super) struct Lifecycle {
    hook: Option<String>,
    /// Whose end waits, by the last look: the region's number and the group.
    waiting: BTreeMap<EndpointId, (usize, String)>,
    /// Those that were completed, or said not to wait, and may still be seen waiting: how many looks
    /// ago.
    completed: BTreeMap<EndpointId, u32>,
    health: Health,
}

impl Lifecycle {
    pub fn new(hook: Option<String>) -> Self {
        let health = Health::new("completing lifecycle actions");
        Self { hook, waiting: BTreeMap::new(), completed: BTreeMap::new(), health }
    }

    /// Begins a new look.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.completed.values_mut().for_each(|looks| *looks = looks.saturating_add(1));
    }

    /// Takes in a region's groups.
    pub fn see(&mut self, region: usize, groups: &[Group]) {
        for group in groups {
            for member in group.members.iter().filter(|member| member.waits()) {
                if let Ok(id) = member.id.parse() {
                    self.waiting.insert(id, (region, group.name.clone()));
                }
            }
        }
    }

    /// Lets those go on that wait and are released.
    pub async fn complete(&mut self, regions: &[Region], released: &BTreeSet<EndpointId>) {
        self.completed.retain(|id, _| self.waiting.contains_key(id));
        let Some(hook) = self.hook.clone() else { return };
        let still = self.completed.iter().find(|(_, looks)| **looks == STILL);
        if let Some((id, (_, group))) = still.and_then(|(id, _)| self.waiting.get_key_value(id)) {
            self.health.failed(&format!(
                "instance {id} of {group} still waits: is {hook} its group's termination hook?"
            ));
        }
        let due: Vec<(EndpointId, (usize, String))> = self
            .waiting
            .iter()
            .filter(|(id, _)| released.contains(*id) && !self.completed.contains_key(*id))
            .map(|(id, place)| (id.clone(), place.clone()))
            .collect();
        for (id, (region, group)) in due {
            let Some(region) = regions.get(region) else { continue };
            match complete(region, &hook, &group, &id).await {
                Ok(()) => {
                    tracing::info!(instance = %id, group, hook, "drained: its end may go on");
                    self.health.succeeded();
                    self.completed.insert(id, 0);
                }
                Err(failure) if is_over(&failure) => {
                    tracing::info!(instance = %id, group, hook, "its end goes on already");
                    self.completed.insert(id, 0);
                }
                Err(failure) => {
                    self.health.failed(&format!("instance {id} of {group}: {failure}"));
                    // What is refused is this one's alone. The rest waits for the next look, so that
                    // calls without an answer do not add up.
                    if !matches!(failure.kind, FailureKind::Denied | FailureKind::Refused) {
                        return;
                    }
                }
            }
        }
    }
}

async fn complete(
    region: &Region,
    hook: &str,
    group: &str,
    id: &EndpointId,
) -> Result<(), Failure> {
    const CALL: &str = "CompleteLifecycleAction";
    let call = region
        .autoscaling
        .complete_lifecycle_action()
        .auto_scaling_group_name(group)
        .lifecycle_hook_name(hook)
        .instance_id(id.as_str())
        .lifecycle_action_result("CONTINUE");
    let done = call.send().await.map(drop).map_err(|error| Failure::of(CALL, &error));
    aws_call(CALL, done.as_ref().copied().map_err(|failure| failure.kind));
    done
}

/// Somebody completed it, or its time ran out: "No active Lifecycle Action found with instance ID".
fn is_over(failure: &Failure) -> bool {
    failure.kind == FailureKind::Refused && failure.reason.contains("No active Lifecycle Action")
}
