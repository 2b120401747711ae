//! AWS as the sources see it: moto behind a server that counts calls, fails them, and plays the one
//! part of Auto Scaling that moto lacks, lifecycle actions: an instance that waits to end is a
//! recorded answer, and so is `CompleteLifecycleAction`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// AWS's way to ask for fewer calls.
    Throttle,
    /// An error of AWS's own.
    Internal,
    /// Credentials that are over.
    Expired,
    /// No answer, until the client goes.
    Silence,
    /// The first half of the right answer.
    Half,
    /// It is carried out, and the answer is lost.
    Lost,
}

pub const FAULTS: [Fault; 6] =
    [Fault::Throttle, Fault::Internal, Fault::Expired, Fault::Silence, Fault::Half, Fault::Lost];

/// As an action: whichever it is.
pub const EVERY_CALL: &str = "*";

/// The termination hook that every group has.
pub const HOOK: &str = "drained";

#[derive(Debug)]
pub struct Front {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    moto: u16,
    calls: Mutex<BTreeMap<String, usize>>,
    faults: Mutex<BTreeMap<String, Fault>>,
    /// Lifecycle states that moto does not know, by instance.
    lifecycles: Mutex<BTreeMap<String, String>>,
    /// Addresses that moto gives to no second instance, by instance.
    addresses: Mutex<BTreeMap<String, String>>,
    /// Instances that EC2 does not know.
    unknown: Mutex<BTreeSet<String>>,
    /// Instances whose end nobody may complete.
    refused: Mutex<BTreeSet<String>>,
    /// Which instance, in which group, by which hook.
    completed: Mutex<Vec<(String, String, String)>>,
}

impl Front {
    /// Before a moto, on a free port.
    pub fn start(moto: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { moto, ..State::default() });
        let weak = Arc::downgrade(&state);
        std::thread::spawn(move || accept(&listener, &weak));
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on, every call of an action fails so; `None`: it works.
    pub fn fail(&self, action: &str, fault: Option<Fault>) {
        let mut faults = self.state.faults.lock().unwrap();
        match fault {
            Some(fault) => _ = faults.insert(action.to_owned(), fault),
            None => _ = faults.remove(action),
        }
    }

    /// How often an action was called.
    pub fn calls(&self, action: &str) -> usize {
        self.state.calls.lock().unwrap().get(action).copied().unwrap_or(0)
    }

    /// How often each action was called.
    pub fn all_calls(&self) -> BTreeMap<String, usize> {
        self.state.calls.lock().unwrap().clone()
    }

    /// An instance has this lifecycle state, whatever moto says.
    pub fn set_lifecycle(&self, instance: &str, state: &str) {
        self.state.lifecycles.lock().unwrap().insert(instance.to_owned(), state.to_owned());
    }

    /// An instance has this private address, whatever moto says.
    pub fn set_address(&self, instance: &str, ip: &str) {
        self.state.addresses.lock().unwrap().insert(instance.to_owned(), ip.to_owned());
    }

    /// EC2 knows nothing of an instance, or knows it again.
    pub fn set_unknown(&self, instance: &str, unknown: bool) {
        let mut all = self.state.unknown.lock().unwrap();
        match unknown {
            true => all.insert(instance.to_owned()),
            false => all.remove(instance),
        };
    }

    /// Every call that would complete an instance's end is refused, or taken again.
    pub fn refuse(&self, instance: &str, refused: bool) {
        let mut all = self.state.refused.lock().unwrap();
        match refused {
            true => all.insert(instance.to_owned()),
            false => all.remove(instance),
        };
    }

    pub fn completed(&self) -> Vec<(String, String, String)> {
        self.state.completed.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Wakes the accepting thread, which then finds nobody who needs it.
        self.state = Arc::default();
        _ = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
    }
}

fn accept(listener: &TcpListener, state: &Weak<State>) {
    for stream in listener.incoming() {
        let (Ok(stream), Some(state)) = (stream, state.upgrade()) else { return };
        std::thread::spawn(move || serve(stream, &state));
    }
}

/// One connection, which ends where a fault or the client ends it.
fn serve(stream: TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (head, body) = read_message(&mut reader)?;
        let action = match target(&head) {
            Some(target) => target,
            None => field(&body, "Action"),
        };
        *state.calls.lock().unwrap().entry(action.clone()).or_default() += 1;
        let faults = state.faults.lock().unwrap();
        let fault = faults.get(&action).or_else(|| faults.get(EVERY_CALL)).copied();
        drop(faults);
        let answer = match fault {
            Some(Fault::Throttle) => refusal(400, "Throttling", "Rate exceeded"),
            Some(Fault::Internal) => refusal(500, "InternalFailure", "try again"),
            Some(Fault::Expired) if target(&head).is_some() => json_refusal(
                400,
                "com.amazonaws.dynamodb.v20120810#ExpiredTokenException",
                "The token is expired",
            ),
            Some(Fault::Expired) => refusal(403, "ExpiredToken", "The token is expired"),
            Some(Fault::Silence) => {
                _ = reader.read_to_end(&mut Vec::new()).is_ok();
                return None;
            }
            Some(Fault::Half) => {
                let whole = answer(state, &action, &head, &body)?;
                (&stream).write_all(&whole[..whole.len() / 2]).ok()?;
                return None;
            }
            Some(Fault::Lost) => {
                answer(state, &action, &head, &body)?;
                return None;
            }
            None => answer(state, &action, &head, &body)?,
        };
        (&stream).write_all(&answer).ok()?;
    }
}

fn answer(state: &State, action: &str, head: &str, body: &str) -> Option<Vec<u8>> {
    if action == "CompleteLifecycleAction" {
        return Some(state.complete(body));
    }
    let mut moto = TcpStream::connect(("127.0.0.1", state.moto)).ok()?;
    moto.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    moto.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let (head, body) = read_message(&mut BufReader::new(moto))?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = match action {
        "DescribeAutoScalingGroups" => state.with_lifecycles(&body),
        "DescribeInstances" => state.with_addresses(&body),
        _ => body,
    };
    Some(message(status, &body))
}

impl State {
    /// Answers as AWS does, the second time too.
    fn complete(&self, body: &str) -> Vec<u8> {
        let id = field(body, "InstanceId");
        if self.refused.lock().unwrap().contains(&id) {
            return refusal(400, "ValidationError", "the request is refused for good");
        }
        let (group, hook) = (field(body, "AutoScalingGroupName"), field(body, "LifecycleHookName"));
        let mut lifecycles = self.lifecycles.lock().unwrap();
        let waits = |state: &&mut String| *state == "Terminating:Wait" && hook == HOOK;
        match lifecycles.get_mut(&id).filter(waits) {
            Some(state) => {
                "Terminating:Proceed".clone_into(state);
                self.completed.lock().unwrap().push((id, group, hook));
                message(
                    200,
                    "<CompleteLifecycleActionResponse><CompleteLifecycleActionResult/>\
                     <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>\
                     </CompleteLifecycleActionResponse>",
                )
            }
            None => refusal(
                400,
                "ValidationError",
                &format!("No active Lifecycle Action found with instance ID {id}"),
            ),
        }
    }

    fn with_lifecycles(&self, body: &str) -> String {
        let mut body = body.to_owned();
        for (id, state) in self.lifecycles.lock().unwrap().iter() {
            let Some(at) = body.find(&format!("<InstanceId>{id}</InstanceId>")) else { continue };
            let start = body[..at].rfind("<member>").unwrap();
            let end = at + body[at..].find("</member>").unwrap();
            let member = body[start..end]
                .replace("<LifecycleState>InService<", &format!("<LifecycleState>{state}<"));
            body.replace_range(start..end, &member);
        }
        body
    }

    fn with_addresses(&self, body: &str) -> String {
        let mut body = body.to_owned();
        for (id, ip) in self.addresses.lock().unwrap().iter() {
            let Some(at) = body.find(&format!("<instanceId>{id}</instanceId>")) else { continue };
            let tag = "<privateIpAddress>";
            let start = at + body[at..].find(tag).unwrap() + tag.len();
            let end = start + body[start..].find('<').unwrap();
            body.replace_range(start..end, ip);
        }
        // Who is described under another id is not described.
        for id in self.unknown.lock().unwrap().iter() {
            body = body.replace(&format!(">{id}<"), ">i-0<");
        }
        body
    }
}

/// A request or an answer: its head, to the empty line, and its body.
fn read_message(reader: &mut impl std::io::BufRead) -> Option<(String, String)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).ok()?))
}

/// The operation of a JSON protocol, such as DynamoDB's.
fn target(head: &str) -> Option<String> {
    let named = head.lines().filter_map(|line| line.split_once(": "));
    let target = named.filter(|(name, _)| name.eq_ignore_ascii_case("x-amz-target"));
    target.map(|(_, value)| value.trim().to_owned()).next()
}

/// A field of a query; the tests' values need no decoding.
fn field(body: &str, name: &str) -> String {
    let mut pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map_or_else(String::new, |(_, value)| value.to_owned())
}

fn refusal(status: u16, code: &str, text: &str) -> Vec<u8> {
    let error =
        format!("<Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>");
    // Auto Scaling's form; EC2's differs in what stands around it.
    message(status, &format!("<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>"))
}

fn json_refusal(status: u16, code: &str, text: &str) -> Vec<u8> {
    message(status, &serde_json::json!({ "__type": code, "message": text }).to_string())
}

fn message(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
