//! Real servers for the tests: each test starts its own, on free loopback ports and in a temporary
//! folder, and ends it.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::LIMIT;

/// A port of this machine that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("this machine has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Asks until the answer is yes.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ends with the test.
pub struct Process(Child);

impl Process {
    /// Starts it with its output in a file.
    #[track_caller]
    pub fn start(mut command: Command, log: &Path) -> Process {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(log)
            .expect("a log can be made");
        let errors = file.try_clone().expect("a file has several handles");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        Process(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")),
        )
    }

    /// Sends it a signal, such as `-STOP`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.0.id().to_string()])
            .status()
            .expect("kill is there");
        assert!(status.success(), "the process is gone already");
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }

    /// Whether it ends by itself, and well.
    #[track_caller]
    pub fn succeeds(&mut self) -> bool {
        wait_until("the end of a process", || {
            self.0.try_wait().expect("it was started here").is_some()
        });
        self.0.wait().expect("it was started here").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A PostgreSQL server with the database `postgres`, whose user `streamrt` needs no password.
pub struct Postgres {
    folder: TempDir,
    pub port: u16,
    settings: Vec<String>,
    process: Option<Process>,
    frozen: Vec<u32>,
}

/// Whoever holds a lock on a table. Its server ends the transaction when the connection is gone.
pub struct Lock(Child);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Postgres {
    /// Suspended processes would not see that the server has ended.
    fn drop(&mut self) {
        self.thaw();
    }
}

/// Sends a signal, such as `-STOP`, to a process that may be gone.
fn signal(signal: &str, process: u32) {
    Command::new("kill")
        .args([signal, &process.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("kill is there");
}

/// A program of Debian's PostgreSQL, the newest that is installed.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(name));
    let found = versions.filter(|path| path.exists()).max();
    found.unwrap_or_else(|| {
        panic!(
            "there is no {name}: `cargo xtask test` installs it, or `apt-get install postgresql`"
        )
    })
}

/// Makes `server.pem` and `server.key`, of the authority `ca.pem`, and another authority,
/// `other.pem`.
fn certificates(folder: &Path) {
    let openssl = |line: &str| {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .output();
        let output =
            output.unwrap_or_else(|e| panic!("PostgreSQL of Debian brings openssl along: {e}"));
        assert!(
            output.status.success(),
            "openssl {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 {KEY} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem"
        ));
    }
    openssl(&format!(
        "req {KEY} -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -keyout server.key -out server.csr"
    ));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -copy_extensions copyall -days 2 -out server.pem",
    );
}

impl Postgres {
    /// Makes a cluster and starts the server. It refuses to be root, so it runs as `nobody` then.
    pub fn start(settings: &[&str]) -> Postgres {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Postgres {
            folder,
            port: free_port(),
            settings,
            process: None,
            frozen: Vec::new(),
        };
        let chown = Command::new("chown")
            .arg("nobody")
            .arg(server.folder.path())
            .status()
            .expect("chown is there");
        assert!(
            chown.success(),
            "the tests of PostgreSQL are to be run as root, for the server runs as another user"
        );
        let mut initdb = server.as_nobody("initdb");
        initdb
            .args([
                "--auth=trust",
                "--username=streamrt",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(server.data());
        let made = initdb.output().expect("setpriv is there");
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        server.start_again();
        server
    }

    /// Like [`Postgres::start`], for a server that accepts only TLS. Its certificate is `server`,
    /// for 127.0.0.1 by the authority `ca.pem`, or `ca`, that of the authority itself.
    pub fn start_with_tls(certificate: &str, settings: &[&str]) -> Postgres {
        let mut server = Postgres::start(settings);
        server.kill();
        certificates(server.folder.path());
        let (public, secret) = (format!("{certificate}.pem"), format!("{certificate}.key"));
        let owned = Command::new("chown")
            .arg("nobody")
            .args([&public, &secret])
            .current_dir(server.folder.path())
            .status();
        assert!(owned.expect("chown is there").success());
        std::fs::write(
            server.data().join("pg_hba.conf"),
            "hostssl all all 127.0.0.1/32 trust\n",
        )
        .expect("a cluster was made");
        let file = |setting: &str, name: &str| format!("{setting}={}", server.path(name).display());
        let settings = [
            "ssl=on".to_owned(),
            file("ssl_cert_file", &public),
            file("ssl_key_file", &secret),
        ];
        server.settings.extend(settings);
        server.start_again();
        server
    }

    /// A file next to the cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn as_nobody(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"])
            .arg(program(name))
            .current_dir(self.folder.path());
        command
    }

    /// Starts the server, and waits until it answers.
    pub fn start_again(&mut self) {
        let mut command = self.as_nobody("postgres");
        command.arg("-D").arg(self.data()).args([
            "-p",
            &self.port.to_string(),
            "-k",
            "",
            "-h",
            "127.0.0.1",
        ]);
        command.args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        self.process = Some(Process::start(command, &self.folder.path().join("log")));
        wait_until("PostgreSQL", || self.psql("SELECT 1").status.success());
    }

    /// Ends the server, as a power failure of its machine would end it.
    pub fn kill(&mut self) {
        // Its own children end when they see that it is gone; SIGQUIT tells them.
        if let Some(mut process) = self.process.take() {
            process.signal("-QUIT");
            process.0.wait().ok();
        }
    }

    pub fn url(&self) -> String {
        format!("postgresql://streamrt@127.0.0.1:{}/postgres", self.port)
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        Command::new(program("psql"))
            .args([&self.url(), "-AtqX", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .expect("psql is there")
    }

    /// Locks a table against everybody else, until what is returned is dropped.
    #[track_caller]
    pub fn lock(&self, table: &str) -> Lock {
        let mut psql = Command::new(program("psql"));
        psql.args([&self.url(), "-qX"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut psql = psql.spawn().expect("psql is there");
        let input = psql.stdin.as_mut().expect("it is piped");
        writeln!(input, "BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE;")
            .and_then(|()| input.flush())
            .expect("psql reads");
        let is_held = format!(
            "SELECT 1 FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted"
        );
        let lock = Lock(psql);
        wait_until("a lock", || !self.ask(&is_held).is_empty());
        lock
    }

    /// Waits until the job has begun transactions that wait for a lock, and returns the processes
    /// that the server has for them.
    #[track_caller]
    pub fn wait_for_waiting(&self) -> Vec<u32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'streamrt %' AND wait_event_type = 'Lock'";
        let mut pids = Vec::new();
        wait_until("a transaction that waits", || {
            pids = self.ask(sql);
            !pids.is_empty()
        });
        pids.iter()
            .map(|pid| pid.parse().expect("it is a number"))
            .collect()
    }

    /// Suspends these processes of the server; [`Postgres::thaw`] resumes them.
    pub fn freeze(&mut self, processes: &[u32]) {
        processes
            .iter()
            .for_each(|&process| signal("-STOP", process));
        self.frozen.extend(processes);
    }

    /// Suspends the whole server: it accepts connections, since its machine does, and never
    /// answers.
    pub fn freeze_all(&mut self) {
        let first = self.process.as_ref().expect("it runs").0.id();
        // Nothing is started any more once the first one is suspended.
        self.freeze(&[first]);
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"))
            .expect("it runs");
        let children: Vec<u32> = children
            .split_ascii_whitespace()
            .map(|child| child.parse().expect("it is a number"))
            .collect();
        self.freeze(&children);
    }

    pub fn thaw(&mut self) {
        std::mem::take(&mut self.frozen)
            .into_iter()
            .for_each(|process| signal("-CONT", process));
    }

    /// The answer, one line per row, its columns separated by `|`.
    #[track_caller]
    pub fn ask(&self, sql: &str) -> Vec<String> {
        let answer = self.psql(sql);
        assert!(
            answer.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        String::from_utf8_lossy(&answer.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// A MinIO server with one bucket, `bucket`.
pub struct Minio {
    folder: TempDir,
    pub port: u16,
    process: Option<Process>,
}

const MINIO_USER: &str = "streamrt";
const MINIO_PASSWORD: &str = "streamrt-secret";

/// Where `go install` puts programs, or the search path.
fn minio() -> PathBuf {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let go = std::env::var_os("GOPATH")
        .map_or_else(|| home.join("go"), PathBuf::from)
        .join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(go)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("minio"))
        .find(|path| path.exists());
    found.expect("there is no minio: `cargo xtask test` installs it, or `go install github.com/minio/minio@latest`")
}

impl Minio {
    pub fn start() -> Minio {
        let folder = TempDir::new().expect("a temporary folder can be made");
        // A folder of the server is a bucket.
        std::fs::create_dir_all(folder.path().join("data/bucket")).expect("folders can be made");
        let mut server = Minio {
            folder,
            port: free_port(),
            process: None,
        };
        server.start_again();
        server
    }

    /// Starts the server, and waits until it answers.
    pub fn start_again(&mut self) {
        let mut command = Command::new(minio());
        command.args([
            "server",
            "--quiet",
            "--address",
            &format!("127.0.0.1:{}", self.port),
            "--console-address",
            &format!("127.0.0.1:{}", free_port()),
        ]);
        command.arg(self.folder.path().join("data"));
        command
            .env("MINIO_ROOT_USER", MINIO_USER)
            .env("MINIO_ROOT_PASSWORD", MINIO_PASSWORD)
            .env("MINIO_BROWSER", "off");
        self.process = Some(Process::start(command, &self.folder.path().join("log")));
        wait_until("MinIO", || self.is_ready());
    }

    fn is_ready(&self) -> bool {
        use std::io::Read;
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let mut answer = String::new();
        let asked = write!(
            stream,
            "GET /minio/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        .and_then(|()| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.split(' ').nth(1) == Some("200")
    }

    /// Ends the server as a power failure would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// What a program needs to reach the server behind a port.
    pub fn environment(&self, port: u16) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let variables = [
            ("AWS_ACCESS_KEY_ID", MINIO_USER),
            ("AWS_SECRET_ACCESS_KEY", MINIO_PASSWORD),
            ("AWS_ENDPOINT_URL", &endpoint),
        ];
        let further = [("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
        variables
            .iter()
            .chain(&further)
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}
