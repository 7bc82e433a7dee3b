//! What the options of a connector name in the outside world: paths and servers. Whoever runs a job
//! that a stranger wrote asks before anything is opened.
//!
//! Each connector that touches the outside world has its place here, so that none is forgotten: an
//! unknown one is refused.

use crate::file::FileOptions;
use crate::file_sink::FileSinkOptions;
use crate::options;
use crate::socket::SocketOptions;
use streamrt_types::Result;
use streamrt_wit::Options;

/// Something that a source or a sink reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A file, a folder, a pattern, or the path of a Unix socket, as it is written.
    Path(String),
    /// A server.
    Server {
        /// A name or an address.
        host: String,
        port: u16,
        /// Whether it is the default port of the protocol.
        is_default_port: bool,
        /// The whole option that names it; it may contain a password.
        option: String,
    },
}

/// What a source reaches.
///
/// # Errors
/// `Invalid` if the connector or an option does not exist, or a value does not fit.
pub fn source_needs(connector: &str, options: &Options) -> Result<Vec<Need>> {
    match connector {
        "file" => {
            let options: FileOptions = options::read(connector, options)?;
            options.check().map(|()| vec![Need::Path(options.path)])
        }
        "socket" => {
            let SocketOptions { host, port, .. } = options::read(connector, options)?;
            Ok(vec![Need::Server {
                option: host.clone(),
                host,
                port,
                is_default_port: false,
            }])
        }
        "datagen" | "nexmark" => Ok(Vec::new()),
        _ => Err(options::unknown("source", connector, crate::SOURCES)),
    }
}

/// What a sink reaches.
///
/// # Errors
/// The same as for [`source_needs`].
pub fn sink_needs(connector: &str, options: &Options) -> Result<Vec<Need>> {
    match connector {
        "file" => {
            let options: FileSinkOptions = options::read(connector, options)?;
            options
                .check_path()
                .map(|()| vec![Need::Path(options.path)])
        }
        "postgres" => crate::postgres_needs(options),
        "print" | "blackhole" => Ok(Vec::new()),
        _ => Err(options::unknown("sink", connector, crate::SINKS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(connector: &str, options: serde_json::Value) -> Result<Vec<Need>> {
        let options = options.as_object().expect("it is an object").clone();
        if connector == "socket" {
            source_needs(connector, &options)
        } else {
            sink_needs(connector, &options)
        }
    }

    fn server(host: &str, port: u16, is_default_port: bool, option: &str) -> Need {
        Need::Server {
            host: host.into(),
            port,
            is_default_port,
            option: option.into(),
        }
    }

    #[test]
    fn options_name_what_is_reached() {
        assert_eq!(
            of("file", json!({ "path": "/a/b" })).unwrap(),
            [Need::Path("/a/b".into())]
        );
        assert_eq!(
            of("socket", json!({ "port": 7 })).unwrap(),
            [server("localhost", 7, false, "localhost")]
        );
        assert_eq!(of("print", json!({})).unwrap(), []);
        assert_eq!(of("kafka", json!({})).unwrap_err().code().id, "S2007");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn all_hosts_of_a_database_are_named() {
        let needs = |url: &str| of("postgres", json!({ "url": url, "table": "t" })).unwrap();
        let url = "postgresql://me:secret@a,b:6000/d";
        assert_eq!(
            needs(url),
            [server("a", 5432, true, url), server("b", 6000, false, url)]
        );
        let url = "host=/run/db,c port=1,2";
        assert_eq!(
            needs(url),
            [Need::Path("/run/db".into()), server("c", 2, false, url)]
        );
        let url = "host=a hostaddr=10.0.0.1 port=1";
        assert_eq!(
            needs(url),
            [
                server("a", 1, false, url),
                server("10.0.0.1", 1, false, url)
            ]
        );
    }
}
