use crate::aws::FailureKind;
use crate::metrics::Counters;

static AWS_CALLS: Counters<2> = Counters::new(
    "lbctl_aws_calls",
    "Calls of AWS by sources, by call and result",
    ["call", "result"],
);

/// Counts a call of AWS.
pub(super) fn aws_call(call: &'static str, result: Result<(), FailureKind>) {
    AWS_CALLS.with([call, result.err().map_or("ok", FailureKind::as_str)]).inc();
}
