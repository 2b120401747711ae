//! What HAProxy, or whatever poses as it, may answer; and what may be said to it.

use super::connection::{self, Heard};
use super::framing::{Framer, Progress};
use super::{AdminState, observe, parse, reply};
use super::{Command, ObservedServer, RejectionKind, ServerRef, SocketAddress};
use crate::model::{BackendName, ServerAddress, Weight};

/// Far over any input, so that it is met only on purpose.
const LIMIT: usize = 4096;

/// How the bytes of a stream are split changes nothing, and a stream that was cut is never whole.
/// The first byte is the number of commands, the second the length of a chunk.
pub fn haproxy_framing(data: &[u8]) {
    let Some((&[expected, chunk], stream)) = data.split_first_chunk() else { return };
    let (expected, chunk) = (1 + usize::from(expected % 8), 1 + usize::from(chunk));
    let mut framer = Framer::new("> ", expected, LIMIT);
    let (mut progress, mut taken) = (Progress::More, 0);
    for chunk in stream.chunks(chunk) {
        taken += chunk.len();
        progress = framer.push(chunk);
        if progress != Progress::More {
            break;
        }
    }
    let stream = &stream[..taken];
    let replies = framer.into_replies();
    let (at_once, the_same) = framed(stream, expected);
    assert_eq!(at_once, progress, "in chunks it is another end");
    assert_eq!(the_same, replies, "in chunks these are other replies");
    if progress == Progress::Done {
        assert_eq!(replies.len(), expected);
        let cut = framed(&stream[..stream.len() - 1], expected).0;
        assert_ne!(cut, Progress::Done, "without its last byte it is whole, too");
    }
    greeting(stream, chunk);
}

fn framed(stream: &[u8], expected: usize) -> (Progress, Vec<String>) {
    let mut framer = Framer::new("> ", expected, LIMIT);
    let progress = framer.push(stream);
    (progress, framer.into_replies())
}

/// No peer is listened to for long before it has said a prompt.
fn greeting(stream: &[u8], chunk: usize) {
    for said in (chunk..=stream.len()).step_by(chunk).map(|end| &stream[..end]) {
        match connection::heard(said) {
            Heard::Start => assert!(said.len() <= 1024, "it is listened to without end"),
            Heard::Prompt { prompt, end } => {
                assert!(prompt.ends_with("> ") && prompt.len() <= 64);
                return assert!(prompt.len() <= end && end <= said.len());
            }
            Heard::Other => return,
        }
    }
}

/// A table that was cut within its last line is never read, where the line shows it. Every part
/// of the input between empty lines is one reply.
pub fn haproxy_tables(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for cut in cut_lines(text, ' ') {
        assert!(parse::servers(cut).is_err(), "half a line was read as a server");
    }
    for cut in cut_lines(text, ',') {
        assert!(parse::sessions(cut).is_err(), "half a line was read as a server's sessions");
    }
    _ = parse::process(text).is_ok();
    _ = parse::servers(text).is_ok();
    _ = parse::sessions(text).is_ok();
    let replies: Vec<String> = text.split("\n\n").map(str::to_owned).collect();
    let [web, api] = ["web", "api"].map(|name| name.parse::<BackendName>());
    let (Ok(web), Ok(api), Ok(address)) = (web, api, "/run/haproxy.sock".parse()) else { return };
    observed(&address, &[web, api], &replies);
}

/// The text without its last fields, one to all but the first, where its last line has as many as
/// its line of column names.
fn cut_lines(text: &str, by: char) -> impl Iterator<Item = &str> {
    let fields = |line: &str| line.split(by).count();
    let columns = text.lines().find_map(|line| line.strip_prefix("# ")).map_or(0, fields);
    let last = text.rsplit('\n').next().unwrap_or_default();
    let is_whole = columns == fields(last) && !last.starts_with("# ");
    let line = if is_whole { last } else { "" };
    line.match_indices(by)
        .filter(|(at, _)| *at > 0)
        .map(move |(at, _)| &text[..text.len() - line.len() + at])
}

fn observed(address: &SocketAddress, backends: &[BackendName], replies: &[String]) {
    match observe::read_state(address, backends, replies) {
        Ok(mut observed) => {
            let known = |name: &String| backends.iter().any(|backend| backend.as_str() == name);
            assert!(observed.backends.keys().all(known), "{observed:?}");
            let rest = replies.get(1 + backends.len()..).unwrap_or_default();
            _ = observe::read_sessions(address, &mut observed, rest).is_ok();
            for query in observe::session_queries(&observed) {
                assert!(connection::lines(&[query], usize::MAX).is_ok());
            }
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// The servers that a reply to `show servers state` tells of.
pub(crate) fn servers(reply: &str) -> Option<Vec<ObservedServer>> {
    parse::servers(reply).ok().map(|rows| rows.servers)
}

/// No refusal is taken for a success, whatever else it says.
pub fn haproxy_reply(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for command in every_command() {
        let result = reply::classify(&command, &text);
        let Err(rejection) = result else {
            assert_eq!(RejectionKind::of(text.trim()), None, "{command}: {text:?} is a success");
            continue;
        };
        assert_eq!(rejection.command, command);
        assert!(!rejection.to_string().contains('\n'), "{rejection}");
        assert!(rejection.remedy().is_none_or(|remedy| !remedy.contains('\n')));
    }
}

fn every_command() -> Vec<Command> {
    let server = "s1".parse().ok().zip("web".parse().ok());
    let server = server.map(|(server, backend)| ServerRef { backend, server });
    let address = "10.0.0.1:80".parse().ok();
    let both = server.zip(address);
    both.map_or_else(Vec::new, |(server, address)| commands(&server, address, Weight::MAX))
}

/// Every command there is for a server, each checked to be one line of known words.
pub(crate) fn commands(server: &ServerRef, address: ServerAddress, weight: Weight) -> Vec<Command> {
    let server = || server.clone();
    let commands = vec![
        Command::SetAddress { server: server(), address, keep_port: false },
        Command::SetAddress { server: server(), address, keep_port: true },
        Command::SetWeight { server: server(), weight },
        Command::SetState { server: server(), state: AdminState::Drain },
        Command::SetHealthDown { server: server() },
        Command::EnableHealth { server: server() },
        Command::EnableAgent { server: server() },
        Command::DisableAgent { server: server() },
        Command::SetAgentUp { server: server() },
        Command::EndSessions { server: server() },
        Command::AddServer { server: server(), address, id: 7, weight, options: String::new() },
        Command::DelServer { server: server() },
    ];
    commands.iter().for_each(assert_harmless);
    commands
}

/// What HAProxy reads has the words of this command and nothing that would start another.
pub(crate) fn assert_harmless(command: &Command) {
    let line = command.to_string();
    let words = match command {
        Command::SetAddress { keep_port: false, .. } => 7,
        Command::SetAddress { keep_port: true, .. }
        | Command::SetWeight { .. }
        | Command::SetState { .. }
        | Command::SetHealthDown { .. }
        | Command::SetAgentUp { .. } => 5,
        Command::AddServer { options, .. } => 8 + options.split_whitespace().count(),
        Command::EndSessions { .. } => 4,
        Command::EnableHealth { .. }
        | Command::EnableAgent { .. }
        | Command::DisableAgent { .. }
        | Command::DelServer { .. } => 3,
    };
    let fits = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:/[]".contains(c))
    };
    assert!(line.split(' ').count() == words && line.split(' ').all(fits), "{line:?}");
    assert!(connection::lines(&[line], usize::MAX).is_ok_and(|lines| lines.len() == 1));
}
