//! Where L2 is, as an operator writes it.
//!
//! ```text
//! ic://<canister id>                                                     on the mainnet
//! ic://<canister id>?gateway=http://127.0.0.1:8000&fetch_root_key=true   on a local network
//! lmdb:<path>                                                            a folder of this machine
//! postgres://<user>@<host>/<database>                                    a database, as libpq has it
//! ```
//! All that belongs to a store stands in its URL, so that two of them can stand side by side in one
//! command.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
};

use candid::Principal;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use url::Url;

/// The API gateway of the Internet Computer's mainnet.
const GATEWAY_DEFAULT: &str = "https://icp-api.io";
/// What stands in a path as it is.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// Why a text is no L2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it is no URL: {0}")]
    Malformed(#[from] url::ParseError),
    #[error("`{0}:` is no kind of L2: ic://CANISTER, lmdb:PATH and postgres://HOST/DATABASE are")]
    Scheme(String),
    #[error("{0:?} is no canister id")]
    Canister(String),
    #[error("`{0}` is no option of an L2 of this kind")]
    Option(String),
    #[error("lmdb:PATH names a folder of this machine, with nothing before or behind its path")]
    Folder,
    #[error("postgres://USER@HOST/DATABASE names a database: {0}")]
    Database(String),
    #[error("`{name}` must be {wanted}, not {found:?}")]
    Value { name: &'static str, wanted: &'static str, found: String },
    #[error("`fetch_root_key` would trust whatever {0} says; the mainnet's key is built in")]
    RootKey(Url),
}

/// Where L2 is.
#[derive(Clone, Debug)]
pub enum Layer2Url {
    Canister(CanisterUrl),
    Lmdb(LmdbUrl),
    Postgres(PostgresUrl),
}

/// Which database, and how to get into it. It is shown without its password, and without all else that
/// does not say which one it is.
#[derive(Clone)]
pub struct PostgresUrl {
    pub(crate) options: Box<PgConnectOptions>,
}

/// Which folder of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LmdbUrl {
    pub folder: PathBuf,
}

/// Which canister, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanisterUrl {
    pub canister: Principal,
    /// Where the Internet Computer answers.
    pub gateway: Url,
    /// Whether to trust the root key that the gateway states: of local and test networks only.
    pub fetch_root_key: bool,
}

impl FromStr for Layer2Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Layer2Url, UrlError> {
        let url = Url::parse(text)?;
        match url.scheme() {
            "ic" => CanisterUrl::read(&url).map(Layer2Url::Canister),
            "lmdb" => LmdbUrl::read(&url).map(Layer2Url::Lmdb),
            "postgres" | "postgresql" => PostgresUrl::read(&url).map(Layer2Url::Postgres),
            other => Err(UrlError::Scheme(other.to_owned())),
        }
    }
}

impl CanisterUrl {
    fn read(url: &Url) -> Result<CanisterUrl, UrlError> {
        let id = url.host_str().unwrap_or_default();
        let canister = Principal::from_text(id).map_err(|_| UrlError::Canister(id.to_owned()))?;
        let mut gateway = Url::parse(GATEWAY_DEFAULT).expect("it is a URL");
        let mut fetch_root_key = false;
        for (name, value) in url.query_pairs() {
            match &*name {
                "gateway" => gateway = read_gateway(&value)?,
                "fetch_root_key" => fetch_root_key = read_flag(&value)?,
                _ => return Err(UrlError::Option(name.into_owned())),
            }
        }
        if fetch_root_key && is_mainnet(&gateway) {
            return Err(UrlError::RootKey(gateway));
        }
        Ok(CanisterUrl { canister, gateway, fetch_root_key })
    }
}

impl LmdbUrl {
    fn read(url: &Url) -> Result<LmdbUrl, UrlError> {
        let is_elsewhere = url.host_str().is_some_and(|host| !host.is_empty());
        if is_elsewhere || url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::Folder);
        }
        let path: Vec<u8> = percent_decode_str(url.path()).collect();
        if path.is_empty() {
            return Err(UrlError::Folder);
        }
        Ok(LmdbUrl { folder: OsString::from_vec(path).into() })
    }
}

/// What a database's URL may say beside where it is.
const POSTGRES_OPTIONS: [&str; 10] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "options",
];

impl PostgresUrl {
    fn read(url: &Url) -> Result<PostgresUrl, UrlError> {
        // A misspelt one would be passed over, and one for TLS must not be.
        if let Some((name, _)) =
            url.query_pairs().find(|(name, _)| !POSTGRES_OPTIONS.contains(&&**name))
        {
            return Err(UrlError::Option(name.into_owned()));
        }
        // The cause may quote what is wrong, but no password: it can be anything.
        let options = PgConnectOptions::from_url(url)
            .map_err(|error| UrlError::Database(error.to_string()))?;
        if options.get_database().is_none_or(str::is_empty) {
            return Err(UrlError::Database("which one?".into()));
        }
        let options = options.application_name("aquifer");
        Ok(PostgresUrl { options: Box::new(options) })
    }
}

fn read_gateway(value: &str) -> Result<Url, UrlError> {
    let wrong = || UrlError::Value {
        name: "gateway",
        wanted: "an http or https URL",
        found: value.to_owned(),
    };
    let gateway = Url::parse(value).map_err(|_| wrong())?;
    if matches!(gateway.scheme(), "http" | "https") { Ok(gateway) } else { Err(wrong()) }
}

fn read_flag(value: &str) -> Result<bool, UrlError> {
    value.parse().map_err(|_| UrlError::Value {
        name: "fetch_root_key",
        wanted: "true or false",
        found: value.to_owned(),
    })
}

fn is_mainnet(gateway: &Url) -> bool {
    const MAINNET: [&str; 4] = ["icp-api.io", "icp0.io", "ic0.app", "internetcomputer.org"];
    gateway.host_str().is_some_and(|host| {
        MAINNET.iter().any(|main| host == *main || host.ends_with(&format!(".{main}")))
    })
}

/// As in logs: it reads back as the same store, but for what has to stay secret.
impl fmt::Display for Layer2Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layer2Url::Canister(url) => url.fmt(f),
            Layer2Url::Lmdb(url) => url.fmt(f),
            Layer2Url::Postgres(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for CanisterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ic://{}?gateway={}", self.canister, self.gateway)?;
        if self.fetch_root_key { f.write_str("&fetch_root_key=true") } else { Ok(()) }
    }
}

impl fmt::Display for LmdbUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lmdb:{}", percent_encode(self.folder.as_os_str().as_bytes(), IN_PATHS))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let database = self.options.get_database().unwrap_or_default();
        let database = percent_encode(database.as_bytes(), IN_PATHS);
        match self.options.get_socket() {
            Some(folder) => {
                let folder = percent_encode(folder.as_os_str().as_bytes(), NON_ALPHANUMERIC);
                write!(f, "postgres://{folder}:{}/{database}", self.options.get_port())
            }
            None => {
                let (host, port) = (self.options.get_host(), self.options.get_port());
                write!(f, "postgres://{host}:{port}/{database}")
            }
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(text: &str, reason: &str) {
        let refusal = text.parse::<Layer2Url>().unwrap_err().to_string();
        assert!(refusal.contains(reason), "{refusal:?} does not speak of {reason:?}");
    }

    #[test]
    fn a_canister_is_on_the_mainnet_unless_a_gateway_is_named() {
        let Ok(Layer2Url::Canister(url)) = "ic://aaaaa-aa".parse() else { panic!("it is one") };
        assert_eq!(url.canister, Principal::management_canister());
        assert_eq!(url.gateway.as_str(), "https://icp-api.io/");
        assert!(!url.fetch_root_key);
    }

    #[test]
    fn a_folder_is_absolute_or_relative_and_may_have_any_name() {
        for (text, folder) in [
            ("lmdb:/var/lib/shared", "/var/lib/shared"),
            ("lmdb:///var/lib/shared", "/var/lib/shared"),
            ("lmdb:shared/events", "shared/events"),
            ("lmdb:/a%20b%3Fc%25", "/a b?c%"),
            ("lmdb:%C3%A9", "é"),
        ] {
            let Ok(Layer2Url::Lmdb(url)) = text.parse() else { panic!("{text} is one") };
            assert_eq!(url.folder, std::path::Path::new(folder), "{text}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for text in [
            "ic://aaaaa-aa",
            "ic://aaaaa-aa?gateway=http://127.0.0.1:8000&fetch_root_key=true",
            "ic://aaaaa-aa?fetch_root_key=false",
            "lmdb:/var/lib/shared",
            "lmdb:a%20b%3Fc%25%23/%C3%A9",
        ] {
            let url: Layer2Url = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let again: Layer2Url = url.to_string().parse().unwrap();
            assert_eq!(format!("{again:?}"), format!("{url:?}"));
        }
    }

    #[test]
    fn a_database_is_shown_by_its_place_alone() {
        for text in [
            "postgres://ann:secret@db.example/events?sslmode=require",
            "postgresql://db.example:5432/events?user=ann&password=secret",
        ] {
            let url: Layer2Url = text.parse().unwrap();
            for shown in [url.to_string(), format!("{url:?}")] {
                assert!(shown.contains("postgres://db.example:5432/events"), "{shown}");
                assert!(!shown.contains("secret"), "{shown}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_reason() {
        check_refused("aaaaa-aa", "no URL");
        check_refused("ftp://aaaaa-aa", "`ftp:` is no kind");
        check_refused("ic://nonsense", "no canister id");
        check_refused("ic://aaaaa-aa?gatewy=http://x", "`gatewy` is no option");
        check_refused("ic://aaaaa-aa?gateway=x", "an http or https URL");
        check_refused("ic://aaaaa-aa?gateway=http://x&fetch_root_key=1", "true or false");
        check_refused("ic://aaaaa-aa?fetch_root_key=true", "built in");
        check_refused("postgres://ann@db.example/", "which one?");
        check_refused("postgres://ann@db.example/x?sslmod=require", "`sslmod` is no option");
        check_refused("postgres://ann@db.example/x?sslmode=perhaps", "names a database");
        check_refused("lmdb:", "names a folder");
        check_refused("lmdb://machine/shared", "names a folder");
        check_refused("lmdb:/shared?size=1", "names a folder");
        check_refused("ic://aaaaa-aa?gateway=https://a.icp0.io&fetch_root_key=true", "built in");
    }
}
