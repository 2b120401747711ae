use metrics::{counter, describe_counter};

use crate::aws::FailureKind;

pub fn describe() {
    describe_counter!("lbctl_aws_calls_total", "Calls of AWS by sources, by call and result");
}

/// Counts a call of AWS.
pub(super) fn aws_call(call: &'static str, result: Result<(), FailureKind>) {
    let result = result.err().map_or("ok", FailureKind::as_str);
    counter!("lbctl_aws_calls_total", "call" => call, "result" => result).increment(1);
}
