use super::{Result, SharedStore, StoreUrl};
use crate::config::{Flags, Globals, Origin, Reader, Secret};
use crate::error::CommandResult;

/// Which store a command uses: `store.url` (`--store`, `LBCTL_STORE_URL`) and `store.password`
/// (better in `LBCTL_STORE_PASSWORD`, or a `password-file=` in the URL, than in the URL itself).
#[derive(Debug, Clone)]
pub struct StoreSettings {
    pub url: StoreUrl,
}

impl StoreSettings {
    /// Reads the settings; where nothing is set, the user's embedded store.
    pub fn read(reader: &mut Reader) -> Self {
        let given: Option<StoreUrl> = match StoreUrl::default_for_user() {
            Some(default) => Some(reader.get("store.url", default)),
            None => reader.require("store.url"),
        };
        let password: Option<Secret> = reader.find("store.password");
        // Without a URL the reader has its problem and this value is never used.
        let mut url = given.unwrap_or(StoreUrl::Memory);
        if url.has_password() && matches!(reader.origin("store.url"), Some(Origin::Flag(_))) {
            reader.warn(
                "every user of this host can read the password in --store (ps): put it into \
                 LBCTL_STORE_PASSWORD, or name a file with password-file=",
            );
        }
        if let Some(password) = password {
            add_password(&mut url, password, reader);
        }
        Self { url }
    }

    /// Opens the store.
    pub async fn open(&self) -> Result<SharedStore> {
        super::open(&self.url).await
    }

    /// Opens the store for a look that writes nothing, and makes none.
    pub async fn open_to_read(&self) -> Result<SharedStore> {
        super::open_to_read(&self.url).await
    }
}

/// Opens the store for a command that needs no other settings.
pub async fn open_from(globals: &Globals) -> CommandResult<SharedStore> {
    Ok(super::open(&url_from(globals)?).await?)
}

/// Which store, for a command that needs no other settings.
pub fn url_from(globals: &Globals) -> CommandResult<StoreUrl> {
    let mut reader = globals.reader(Flags::new())?;
    let settings = StoreSettings::read(&mut reader);
    reader.finish()?;
    Ok(settings.url)
}

fn add_password(url: &mut StoreUrl, password: Secret, reader: &mut Reader) {
    let StoreUrl::Etcd(etcd) = url else {
        return reader.problem("store.password", "this store takes no password: leave it out");
    };
    if etcd.user.is_none() {
        let message = "a password needs a user: write the URL as etcd://USER@HOST:PORT";
        return reader.problem("store.password", message);
    }
    if etcd.password.is_some() || etcd.password_file.is_some() {
        let message = "the URL has a password or password-file already: leave one out";
        return reader.problem("store.password", message);
    }
    etcd.password = Some(password);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    fn read(environment: &[(&str, &str)]) -> std::result::Result<StoreUrl, ConfigError> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("empty.toml");
        std::fs::write(&file, "").unwrap();
        let mut reader = Reader::load(Some(&file), environment, Flags::new()).unwrap();
        let settings = StoreSettings::read(&mut reader);
        reader.finish().map(|_| settings.url)
    }

    #[test]
    fn nothing_set_is_the_embedded_store() {
        assert_eq!(read(&[]).ok(), StoreUrl::default_for_user());
    }

    #[test]
    fn the_password_comes_from_the_environment() {
        let url = [("LBCTL_STORE_URL", "etcd://me@h/x"), ("LBCTL_STORE_PASSWORD", "secret")];
        let StoreUrl::Etcd(etcd) = read(&url).unwrap() else { panic!("not etcd") };
        assert_eq!(etcd.password.unwrap().reveal(), "secret");
        for url in ["etcd://h", "etcd://a:b@h", "memory:"] {
            let both = [("LBCTL_STORE_URL", url), ("LBCTL_STORE_PASSWORD", "secret")];
            let error = read(&both).unwrap_err().to_string();
            assert!(error.contains("leave") || error.contains("user"), "{error}");
        }
    }
}
