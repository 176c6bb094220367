use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use url::Url;

/// What may stand behind the `?` of a PostgreSQL URL. Others would be passed over, and `ssl_mode=verify-full` for
/// `sslmode=verify-full` would leave the line open without a word.
const POSTGRES: [&str; 10] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
];
/// The same for MySQL and MariaDB.
const MYSQL: [&str; 5] = ["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "socket"];

/// Where the archive's database is, and how to sign in. What it prints holds no password.
#[derive(Clone)]
pub struct Address {
    pub(crate) place: Place,
    pub(crate) password: Option<SecretString>,
}

/// The engine, and where it is. URLs hold no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(Url),
    MySql(Url),
}

/// An address that names no database. Nothing of it that could be a password is repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// Not an engine that this program speaks.
    #[error(
        "the scheme {0:?} is not spoken here: give the path of a SQLite file, `postgres://user@host/database` or \
         `mysql://user@host/database` (MariaDB too)"
    )]
    Scheme(String),
    /// No URL.
    #[error("it is no URL ({0}); characters as / @ : # ? in a user or password must be percent-encoded (`@` is `%40`)")]
    Url(url::ParseError),
    /// Something behind the `?` that nothing would heed.
    #[error("the parameter {name:?} is not known; there are {known}", known = known.join(" "))]
    Parameter {
        /// The parameter.
        name: String,
        /// Those that there are.
        known: &'static [&'static str],
    },
    /// A password where logs and process lists could show it, and no need for it.
    #[error(
        "a password stands before the host (`user:password@host`), in `store.database_password` or in a file, not as a parameter"
    )]
    PasswordParameter,
    /// A server without the name of a database on it.
    #[error("the name of the database is missing: `{0}://user@host/database`")]
    NoDatabase(&'static str),
    /// Two passwords.
    #[error("the password is said twice: in the URL, and apart from it")]
    TwoPasswords,
    /// A password for a file.
    #[error("a password is set, but the database is a SQLite file, which has none")]
    NeedlessPassword,
    /// A password that is no UTF-8 once decoded.
    #[error("the password in the URL is not UTF-8 once it is decoded")]
    PasswordEncoding,
}

impl Address {
    /// Reads a URL (`postgres:`, `postgresql:`, `mysql:`, `mariadb:`, `sqlite:`) or the path of a SQLite file. The password
    /// may stand in the URL or come apart from it.
    pub fn parse(text: &str, password: Option<SecretString>) -> Result<Self, AddressError> {
        let place = match text.split_once(':') {
            Some(("sqlite", path)) => Place::Sqlite(path.strip_prefix("//").unwrap_or(path).into()),
            Some(("postgres" | "postgresql", rest)) => return Self::server(Engine::Postgres, rest, password),
            Some(("mysql" | "mariadb", rest)) => return Self::server(Engine::MySql, rest, password),
            Some((scheme, rest)) if rest.starts_with("//") => return Err(AddressError::Scheme(scheme.to_owned())),
            _ => Place::Sqlite(text.into()),
        };
        match password {
            Some(_) => Err(AddressError::NeedlessPassword),
            None => Ok(Self { place, password }),
        }
    }

    /// A SQLite file.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        Self {
            place: Place::Sqlite(path.to_owned()),
            password: None,
        }
    }

    fn server(engine: Engine, rest: &str, apart: Option<SecretString>) -> Result<Self, AddressError> {
        let mut url = Url::parse(&format!("{}:{rest}", engine.scheme())).map_err(AddressError::Url)?;
        let within = url.password().map(decode).transpose()?;
        if url.set_password(None).is_err() && within.is_some() {
            return Err(AddressError::Url(url::ParseError::EmptyHost));
        }
        let mut has_name = url.path().len() > 1;
        for (name, _) in url.query_pairs() {
            if name == "password" {
                return Err(AddressError::PasswordParameter);
            }
            if !engine.parameters().contains(&&*name) {
                return Err(AddressError::Parameter {
                    name: name.into_owned(),
                    known: engine.parameters(),
                });
            }
            has_name |= name == "dbname";
        }
        if !has_name {
            return Err(AddressError::NoDatabase(engine.scheme()));
        }
        let password = match (within, apart) {
            (Some(_), Some(_)) => return Err(AddressError::TwoPasswords),
            (within, apart) => within.or(apart),
        };
        let place = match engine {
            Engine::Postgres => Place::Postgres(url),
            Engine::MySql => Place::MySql(url),
        };
        Ok(Self { place, password })
    }
}

#[derive(Clone, Copy)]
enum Engine {
    Postgres,
    MySql,
}

impl Engine {
    fn scheme(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Postgres => &POSTGRES,
            Self::MySql => &MYSQL,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Sqlite(path) => path.display().fmt(f),
            Place::Postgres(url) | Place::MySql(url) => url.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.to_string()).finish()
    }
}

fn decode(password: &str) -> Result<SecretString, AddressError> {
    percent_encoding::percent_decode_str(password)
        .decode_utf8()
        .map(|password| SecretString::from(password.into_owned()))
        .map_err(|_| AddressError::PasswordEncoding)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn urls_and_paths_are_told_apart() {
        #[rustfmt::skip]
        let cases = [
            ("archive.db",                                   "archive.db",                         None),
            ("/var/lib/a b/archive.db",                      "/var/lib/a b/archive.db",            None),
            ("sqlite:archive.db",                            "archive.db",                         None),
            ("sqlite:///tmp/a.db",                           "/tmp/a.db",                          None),
            ("C:archive.db",                                 "C:archive.db",                       None),
            ("postgres://nj@db/chat",                        "postgres://nj@db/chat",              None),
            ("postgresql://nj:s%40%2f@db:5433/chat",         "postgres://nj@db:5433/chat",         Some("s@/")),
            ("postgres:///?host=/run/postgresql&dbname=chat", "postgres:///?host=/run/postgresql&dbname=chat", None),
            ("mysql://nj:geheim@db/chat?ssl-mode=REQUIRED",  "mysql://nj@db/chat?ssl-mode=REQUIRED", Some("geheim")),
            ("mariadb://nj:x@[::1]:3307/chat",               "mysql://nj@[::1]:3307/chat",         Some("x")),
        ];
        for (text, shown, password) in cases {
            let address = Address::parse(text, None).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(
                address.password.as_ref().map(ExposeSecret::expose_secret),
                password,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is_shown() {
        #[rustfmt::skip]
        let cases = [
            ("oracle://nj:geheim@db/chat",                 "oracle"),
            ("postgres://nj:geheim@db",                    "name of the database"),
            ("postgres://nj:geheim@db/chat?ssl_mode=on",   "ssl_mode"),
            ("postgres://nj@db/chat?password=geheim",      "before the host"),
            ("mysql://nj:geheim@db/chat?sslmode=on",       "ssl-mode"),
            ("mysql://nj:geheim/@db:x/chat",               "percent-encoded"),
            ("postgres://nj:geheim%ff@db/chat",            "UTF-8"),
        ];
        for (text, why) in cases {
            let error = Address::parse(text, None).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_password_may_come_apart_and_is_never_printed() {
        let secret = || Some(SecretString::from("geheim"));
        let address = Address::parse("postgres://nj@db/chat", secret()).unwrap();
        assert_eq!(address.password.as_ref().unwrap().expose_secret(), "geheim");
        let twice = Address::parse("postgres://nj:geheim@db/chat", secret()).unwrap_err();
        let needless = Address::parse("archive.db", secret()).unwrap_err();
        assert_eq!(
            (twice, needless),
            (AddressError::TwoPasswords, AddressError::NeedlessPassword)
        );
        for shown in [format!("{address}"), format!("{address:?}")] {
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }
}
