//! EC2's answers, which are XML: "DescribeInstances" and "Error codes" of the EC2 API reference.

use std::collections::BTreeMap;

use aws_smithy_types::error::ErrorMetadata;
use roxmltree::{Document, Node};

/// An instance, as far as lbctl asks; texts as EC2 writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    /// `running`, `pending`, `shutting-down`, …
    pub state: String,
    pub private_ip: Option<String>,
    pub public_ip: Option<String>,
    pub ipv6: Option<String>,
    pub tags: BTreeMap<String, String>,
}

impl Instance {
    /// It is being terminated, or it is: it never serves again ("Instance lifecycle" of EC2's user
    /// guide).
    pub fn has_ended(&self) -> bool {
        ["shutting-down", "terminated"].contains(&self.state.as_str())
    }
}

/// One page of instances, and the token of the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub instances: Vec<Instance>,
    pub next: Option<String>,
}

/// Reads an answer; one that is cut short is an error.
pub(super) fn page(text: &str) -> Result<Page, String> {
    let document = Document::parse(text).map_err(|error| format!("not the XML of EC2: {error}"))?;
    let root = document.root_element();
    let reservations = child(root, "reservationSet")
        .filter(|_| root.tag_name().name() == "DescribeInstancesResponse")
        .ok_or("the answer has no reservationSet")?;
    let instances = items(reservations)
        .filter_map(|reservation| child(reservation, "instancesSet"))
        .flat_map(items)
        .map(instance)
        .collect();
    Ok(Page { instances, next: text_of(root, "nextToken") })
}

/// The code and the sentence of a refusal; both may be missing.
pub(super) fn refusal(text: &str) -> ErrorMetadata {
    let mut error = ErrorMetadata::builder();
    let document = Document::parse(text);
    let found = document
        .as_ref()
        .ok()
        .and_then(|document| document.descendants().find(|node| node.tag_name().name() == "Error"));
    if let Some(found) = found {
        error = error.code(text_of(found, "Code").unwrap_or_default());
        error = error.message(text_of(found, "Message").unwrap_or_default());
    }
    error.build()
}

fn instance(item: Node<'_, '_>) -> Instance {
    let tag = |item| Some((text_of(item, "key")?, text_of(item, "value").unwrap_or_default()));
    Instance {
        id: text_of(item, "instanceId").unwrap_or_default(),
        state: child(item, "instanceState").and_then(|s| text_of(s, "name")).unwrap_or_default(),
        private_ip: text_of(item, "privateIpAddress"),
        public_ip: text_of(item, "ipAddress"),
        ipv6: text_of(item, "ipv6Address").or_else(|| first_ipv6(item)),
        tags: child(item, "tagSet").into_iter().flat_map(items).filter_map(tag).collect(),
    }
}

/// Of the first interface that has one.
fn first_ipv6(item: Node<'_, '_>) -> Option<String> {
    let interfaces = child(item, "networkInterfaceSet").into_iter().flat_map(items);
    let mut addresses = interfaces
        .filter_map(|interface| child(interface, "ipv6AddressesSet"))
        .flat_map(items)
        .filter_map(|address| text_of(address, "ipv6Address"));
    addresses.next()
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn items<'a, 'i>(list: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    list.children().filter(|child| child.tag_name().name() == "item")
}

/// The text of an element; `None` where it is empty or not there.
fn text_of(node: Node<'_, '_>, name: &str) -> Option<String> {
    child(node, name)?.text().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>8f7724cf</requestId>
  <reservationSet>
    <item><reservationId>r-1</reservationId><instancesSet>
      <item>
        <instanceId>i-1</instanceId>
        <instanceState><code>16</code><name>running</name></instanceState>
        <privateIpAddress>10.0.0.1</privateIpAddress>
        <tagSet><item><key>port</key><value>8080</value></item><item><key>a &amp; b</key><value/></item></tagSet>
        <networkInterfaceSet>
          <item><ipv6AddressesSet/></item>
          <item><ipv6AddressesSet><item><ipv6Address>2001:db8::1</ipv6Address></item></ipv6AddressesSet>
            <privateIpAddress>10.0.9.9</privateIpAddress></item>
        </networkInterfaceSet>
      </item>
      <item><instanceId>i-2</instanceId><instanceState><name>pending</name></instanceState>
        <privateIpAddress/><ipAddress>192.0.2.7</ipAddress></item>
    </instancesSet></item>
    <item><reservationId>r-2</reservationId><instancesSet/></item>
  </reservationSet>
  <nextToken>more</nextToken>
</DescribeInstancesResponse>"#;

    #[test]
    fn instances_are_read_with_their_addresses_and_tags() {
        let Page { instances, next } = page(ANSWER).unwrap();
        assert_eq!(next.as_deref(), Some("more"));
        let [first, second] = &instances[..] else { panic!("{instances:?}") };
        assert_eq!((first.id.as_str(), first.state.as_str()), ("i-1", "running"));
        assert_eq!(first.private_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(first.ipv6.as_deref(), Some("2001:db8::1"));
        assert_eq!(first.tags["port"], "8080");
        assert_eq!(first.tags["a & b"], "");
        assert_eq!((second.private_ip.as_deref(), second.state.as_str()), (None, "pending"));
        assert_eq!(second.public_ip.as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn half_an_answer_is_an_error_wherever_it_ends() {
        for end in 1..ANSWER.len() - 1 {
            if ANSWER.is_char_boundary(end) {
                page(&ANSWER[..end]).expect_err(&ANSWER[..end]);
            }
        }
        page("").unwrap_err();
        page("<Response/>").unwrap_err();
        page("{}").unwrap_err();
    }

    #[test]
    fn a_refusal_has_its_code_and_sentence_if_any() {
        let text = "<?xml version=\"1.0\"?><Response><Errors><Error><Code>RequestLimitExceeded</Code>\
                    <Message>Request limit exceeded.</Message></Error></Errors></Response>";
        let error = refusal(text);
        assert_eq!(error.code(), Some("RequestLimitExceeded"));
        assert_eq!(error.message(), Some("Request limit exceeded."));
        assert_eq!(refusal("<html>502</html>").code(), None);
        assert_eq!(refusal("").code(), None);
    }
}
