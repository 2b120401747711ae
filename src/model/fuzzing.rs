//! What the words may be made of.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use super::{
    BackendName, CandidateId, ElectionName, EndpointId, GroupName, HaproxyName, Key, Label, Prefix,
    ServerAddress, ServerName, ServerPrefix, SlotNumber, Weight, format_duration, parse_duration,
};

/// What is accepted reads back as shown, and has no character that could break out of a HAProxy
/// command, a key, a path or a shell's word.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let inert = |name: String| {
        let harmful = |c: char| !c.is_ascii_graphic() || "/;\\'\"`$&|<>()*?!~#".contains(c);
        assert!(!name.contains(harmful) && name.len() <= 264 && name != "..", "{name:?}");
    };
    reads_back::<BackendName>(text).map(inert);
    reads_back::<ServerName>(text).map(inert);
    reads_back::<ServerPrefix>(text).map(inert);
    reads_back::<HaproxyName>(text).map(inert);
    reads_back::<ElectionName>(text).map(inert);
    reads_back::<EndpointId>(text).map(inert);
    reads_back::<CandidateId>(text).map(inert);
    reads_back::<Label>(text).map(inert);
    // Only a terminal and a line of text ever see it.
    let shown = |group: String| assert_eq!(crate::text::one_line(&group), group);
    reads_back::<GroupName>(text).map(shown);
    reads_back::<ServerAddress>(text).map(inert);
    reads_back::<SlotNumber>(text).map(inert);
    reads_back::<Weight>(text).map(inert);
    inert(HaproxyName::of_host(text).to_string());
    let whole = |key: String| assert!(!key.contains(char::is_control) && !key.contains("//"));
    reads_back::<Key>(text).map(whole);
    reads_back::<Prefix>(text).map(whole);
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }
}

/// What a text shows as, where it is accepted.
fn reads_back<T>(text: &str) -> Option<String>
where
    T: FromStr<Err: Debug + Display> + Display + Debug + PartialEq,
{
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert!(shown.parse::<T>().is_ok_and(|again| again == value), "{shown:?} of {value:?}");
            Some(shown)
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.contains('\n') && said.len() < 1000, "{said:?}");
            None
        }
    }
}
