use super::file::HsdoFile;
use super::{translate, variable as var};

/// Any file and any list of backends is translated or has what is wrong with it noted. What stands
/// before the first NUL is the file, the rest the list.
pub fn hsdo_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, list) = text.split_once('\0').unwrap_or((text, ""));
    let Ok(file) = HsdoFile::parse("env.yaml".as_ref(), file) else { return };
    let name = var::CLIENT_HAPROXY_BACKEND_LIST.name;
    let layer = translate(Some(file), [(name.to_owned(), list.to_owned())], None);
    let places = layer.tables("sync-haproxy.backends");
    let is_noted = layer.notes().iter().any(|note| note.path == "sync-haproxy.backend");
    assert!(places > 0 || is_noted, "no backend, and nothing is said of it");
    for index in 0..places {
        for setting in ["backend", "from", "port"] {
            let path = format!("sync-haproxy.backends[{index}].{setting}");
            assert!(layer.get(&path).is_some(), "{path} is not set");
        }
    }
}
