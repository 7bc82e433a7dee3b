//! The stable codes that accompany every message, with the likely fix. A code that was released
//! keeps its meaning for ever.

use crate::error::ErrorKind;

/// A stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    /// `S` and four digits.
    pub id: &'static str,
    pub kind: ErrorKind,
    /// The likely fix, as a sentence that the command line prints.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $kind:ident, $fix:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code { id: $id, kind: ErrorKind::$kind, fix: $fix };)*
        /// All of them, in the order of their numbers.
        pub const CODES: &[Code] = &[$($name),*];
    };
}

codes! {
    /// The file is not WebAssembly at all.
    NOT_WASM = "S1001", Invalid, "Give the .wasm file that `streamrt build` writes.";
    /// A core module where a component is needed.
    CORE_MODULE = "S1002", Invalid, "Build it with `streamrt build`, or turn it into a component with `wasm-tools component new`.";
    /// The component's bytes are damaged or use what this host does not support.
    BAD_COMPONENT = "S1003", Invalid, "Build the component again; it may have been cut off on its way here.";
    /// The component exports no interface of ours.
    NO_OPERATOR = "S1004", Invalid, "The component must export streamrt:plugin/operator; the SDK's `job!` macro does that.";
    /// The component was built for another version of the interface.
    INTERFACE_VERSION = "S1005", Invalid, "Build it again with the SDK that `streamrt new` of this version unpacks.";
    /// The component imports something that nothing here provides.
    UNKNOWN_IMPORT = "S1006", Invalid, "A plugin may import streamrt:plugin/state, host and files, and inert WASI only.";
    /// The plan that `describe` returned cannot be read.
    BAD_PLAN = "S1007", Invalid, "Build the component again with the SDK that `streamrt new` of this version unpacks.";
    /// The plugin refused its arguments.
    BAD_ARGUMENTS = "S1008", Invalid, "Arguments of the job stand after `--`, as in `streamrt run job.wasm -- --input FILE`.";
    /// An instance described another plan than the one that was submitted.
    PLAN_CHANGED = "S1009", UserCode, "The job function must build the same plan each time it runs with the same arguments.";
    /// A precompiled artefact was given.
    PRECOMPILED = "S1010", Invalid, "Give the component itself; compiled code is never taken from a file.";
    /// The component could not be compiled or instantiated.
    NOT_INSTANTIABLE = "S1011", Invalid, "Look at the cause below; often a limit in the grant is too low.";
    /// A plugin wants a folder, a path or a server that it was not granted, or leaves a folder that
    /// it was.
    NOT_GRANTED = "S1012", Invalid, "If the component may have it, say so: name it after `--`, or with `--allow-path` or `--allow-host`; a folder that a sink asks for with `--grant NAME=FOLDER`, or under `[plugin.grant]` in a job.toml.";
    /// A component that is too large, makes too much, or costs too much to compile.
    COMPONENT_LIMIT = "S1020", Invalid, "A component that was not made to harm stays far below; `-D plugin.size`, `plugin.memory`, `plugin.compile-memory` and `plugin.compile-time` allow more; a JobManager takes what its `--component-size` says.";

    /// A cycle in the job graph.
    CYCLE = "S2001", Invalid, "Take out one of the edges that are named.";
    /// An input names a node or a uid that is not there.
    UNKNOWN_UID = "S2002", Invalid, "Correct the name of the input.";
    /// A node without uid.
    MISSING_UID = "S2003", Invalid, "Give every operator a uid; its state is found by it.";
    /// Two nodes with the same uid.
    DOUBLED_UID = "S2004", Invalid, "Give each operator a uid of its own.";
    /// Columns that are not there, or of another type.
    SCHEMA_MISMATCH = "S2005", Invalid, "Make the columns of the record fit those of the stream, by name and type.";
    /// The job file or plan is wrong in another way.
    INVALID_JOB = "S2006", Invalid, "Correct the job at the place that is named.";
    /// A connector or an option that does not exist, or a bad value.
    BAD_OPTION = "S2007", Invalid, "See README.md for the options of each connector and the configuration keys.";
    /// More rows between two checkpoints than a write-ahead sink may keep.
    WRITE_AHEAD_LIMIT = "S2008", Invalid, "Make checkpoints more often, or give the sink a higher limit: `bytes_max`, or `write_ahead_bytes` in a job.toml.";
    /// The function that builds the job failed.
    JOB_FUNCTION = "S2009", Invalid, "Correct the function that builds the job, or what it reads; no record was looked at.";
    /// More windows over one time than a window operator keeps.
    WINDOW_OVERLAP = "S2015", Invalid, "Let the windows slide less often, or make them smaller; a built-in aggregate allows more of them than code of your own.";
    /// A plan that is too large, or asks for too much.
    PLAN_LIMIT = "S2020", Invalid, "Make the job smaller at the place that is named, or divide it.";
    /// A job to be kept whose arguments or texts hold a password.
    PASSWORD_KEPT = "S2021", Invalid, "Leave the password out: the cluster keeps jobs as they were given. For PostgreSQL, start the JobManager with PGPASSWORD.";

    /// A file or folder that cannot be opened.
    FILE_MISSING = "S3001", Unavailable, "Check the path; relative paths start in the current folder.";
    /// Reading or writing failed.
    FILE_IO = "S3002", Unavailable, "Check the disk and the permissions of the path that is named.";
    /// A line that does not fit the schema.
    BAD_RECORD = "S3003", Data, "Correct the line, or run with `-D poison.policy=skip` to leave such records out.";
    /// Nobody listens, or the connection was refused.
    CONNECT = "S3004", Unavailable, "Check host and port, and start the server first, for example `nc -lk 7777`.";
    /// A connection broke.
    CONNECTION_LOST = "S3005", Unavailable, "Start the server again, then the job.";
    /// An address is in use.
    PORT_IN_USE = "S3006", Unavailable, "End the program that holds the port, or choose another one.";
    /// A file that does not hold complete columns.
    BAD_FILE = "S3007", Data, "The file is damaged or of another format: write it again, or take it away before the job begins it.";
    /// A database does not answer, or gave up what it was asked for.
    DATABASE = "S3008", Unavailable, "Check that the database server runs and can be reached; its log says more.";
    /// A table does not take a row.
    ROW_REFUSED = "S3009", Data, "Correct the rows or the table; nothing of this transaction was written.";
    /// A database server cannot do what a sink needs.
    DATABASE_SETTING = "S3010", Invalid, "Change the setting of the server that is named, and restart the server.";
    /// A user, a password, a database or a right is wrong.
    DATABASE_ACCESS = "S3011", Invalid, "Correct `url`, give the password in PGPASSWORD, or grant the right.";
    /// What a source had read is gone, or is something else now.
    HISTORY_LOST = "S3012", Data, "Put the input back as it was, or start anew with another checkpoint.dir; to go on would skip or double records.";
    /// The system behind a plugin's sink did not answer.
    SINK_UNAVAILABLE = "S3013", Unavailable, "Check the system that the sink writes to; what is not committed is written again.";
    /// The process of a job takes commands and does not answer.
    NO_ANSWER = "S3014", Unavailable, "Its process may be stopped or overloaded: `kill -CONT PID` lets one go on that was stopped.";
    /// No JobManager listens where one was looked for.
    NO_CLUSTER = "S3015", Unavailable, "Start one with `streamrt jobmanager --embedded --dir DIR`, or name another one with `--cluster URL` or STREAMRT_CLUSTER.";
    /// Another JobManager works in the folder.
    DIR_IN_USE = "S3016", Unavailable, "End the other JobManager, or give this one another `--dir`.";
    /// Nobody reads what the program prints.
    STDOUT_CLOSED = "S3020", Invalid, "The program behind the pipe has ended; give the job another sink if it is to go on without a reader.";
    /// A path that is neither a file nor a folder.
    NOT_A_FILE = "S3030", Invalid, "Name a regular file, or for a source a folder or a pattern; what comes through a pipe is read as `-`, from standard input.";
    /// Input that is not read because the options of its source say so.
    PASSED_OVER = "S3031", Data, "See the options `missing`, `settle` and `follow` of the source `file` in README.md.";

    /// The guest trapped.
    TRAP = "S4001", UserCode, "Correct the plugin at the function named in the backtrace, or run with `-D poison.policy=skip`.";
    /// The guest did not return in time.
    DEADLINE = "S4002", UserCode, "The function loops for ever or is too slow; `-D plugin.deadline=10s` gives it more time.";
    /// The guest wanted more memory or table than it may have.
    MEMORY_LIMIT = "S4003", UserCode, "`-D plugin.memory=512MiB` allows more.";
    /// The guest's stack is exhausted.
    STACK_LIMIT = "S4004", UserCode, "The function recurses too deeply.";
    /// The guest sent something that does not hold together.
    BAD_OUTPUT = "S4005", UserCode, "The plugin broke the interface; build it with a current SDK.";
    /// The guest returned an error.
    USER_ERROR = "S4006", UserCode, "The plugin refused the record; correct it, or run with `-D poison.policy=skip`.";
    // S4007 said that too many records of one batch failed.
    /// The guest sent more than it may.
    OUTPUT_LIMIT = "S4008", UserCode, "The function returns too much for one call; `-D plugin.output=256MiB` allows more.";
    /// A sink's own code failed.
    SINK_FAILED = "S4009", UserCode, "Correct the sink, or filter out in front of it what it cannot take: sinks skip no records.";
    /// A sink's own code does too much with files in one call.
    FILES_LIMIT = "S4020", UserCode, "The sink does too much in one call, or loops; `-D plugin.files-time` and `-D plugin.files-bytes` allow more.";

    /// A record without event time reached an event-time operator.
    NO_EVENT_TIME = "S5001", Invalid, "Assign timestamps and watermarks in front of the operator that is named; rows whose time is null are left out with -D poison.policy=skip.";
    /// A key column is null.
    NULL_KEY = "S5002", Data, "Filter out rows without a key, or give them one; -D poison.policy=skip leaves them out.";
    /// A number left its range.
    OVERFLOW = "S5003", Data, "Use a wider type, or filter out what makes the number so large.";
    /// A time that no window reaches.
    TIME_RANGE = "S5010", Data, "Times count from 1970: say in which unit the column has them, as in `TIME.seconds()` or `unit = \"us\"`, or correct the record.";
    /// More bytes or elements than one batch can hold.
    BATCH_LIMIT = "S5011", Data, "Make batches smaller with `-D batch.rows`, or keep less under one key.";
    /// The process holds more memory than it may.
    PROCESS_MEMORY = "S5012", Invalid, "Keep less: a time to live, shorter windows, fewer keys for each process; or keep keyed state on disk with `-D state.backend=rocksdb`; or, if the machine has more, allow it with `-D memory.process-size=SIZE`.";

    /// The tool chain for components is not there.
    TOOLCHAIN = "S6001", Unavailable, "Run the commands that are named above, then try again.";
    /// The user's crate did not compile.
    BUILD_FAILED = "S6002", Invalid, "Correct the errors that the compiler printed above.";
    /// What is to be written exists.
    EXISTS = "S6003", Invalid, "Choose another name, or remove what is there.";
    /// An argument of a command that names nothing, or does not fit.
    WRONG_USE = "S6004", Invalid, "Give what the message names; `streamrt COMMAND --help` says what each command takes.";
    /// An id or a name that no job has.
    NO_JOB = "S6005", Invalid, "`streamrt list --all` shows the jobs that there are.";
    /// A job of this name runs.
    JOB_EXISTS = "S6006", Invalid, "Stop or cancel the other job, or give this one another name with `--name`.";
    /// A command to a job that has ended.
    JOB_ENDED = "S6007", Invalid, "Deploy it again; `--from DIR` goes on from its checkpoints.";
    /// A job names a component that was not uploaded.
    NO_COMPONENT = "S6008", Invalid, "Upload the component with `PUT /v1/components/DIGEST`; `streamrt deploy` does that by itself.";
    /// A request over HTTP that cannot be read.
    BAD_REQUEST = "S6009", Invalid, "`/v1/openapi.json` describes what each path takes.";

    /// A snapshot whose bytes do not hold together, or are not those that were written.
    SNAPSHOT_DAMAGED = "S7001", Data, "Start from another checkpoint or savepoint with `--from`; `streamrt fsck` says what is whole.";
    /// A snapshot of another kind or of a newer version.
    SNAPSHOT_FOREIGN = "S7002", Invalid, "Use the version of streamrt that wrote it, or start from another snapshot with `--from`.";
    /// State of other types than the job declares.
    STATE_TYPES = "S7003", Invalid, "Keep the types of the state, or give the state another name; then it starts empty.";
    /// State whose operator is not in the job.
    STATE_GONE = "S7004", Invalid, "Put the operator back under its uid, or drop the state with `--allow-non-restored-state`.";
    /// The job in the checkpoint folder is another one.
    OTHER_JOB = "S7005", Invalid, "Choose another checkpoint.dir, or say with `--from` which snapshot the job is to start from.";
    /// Another process leads the job.
    FENCED = "S7006", Fenced, "The job runs elsewhere; nothing is to be done here.";
    /// The checkpoint store failed or did not answer.
    STORE = "S7007", Unavailable, "Check the folder or the server that the message names (of `checkpoint.dir`, or the JobManager's `--dir`), and the room on it.";
    /// Data that a checkpoint promised to commit cannot be committed any more.
    COMMIT_LOST = "S7008", Data, "Results between the checkpoints named are missing from the sink; restore what was removed, or replay from an older snapshot.";
    /// Checkpoints failed more often than is tolerated.
    CHECKPOINT_FAILED = "S7009", Unavailable, "Mend what is named as the reason; `-D checkpoint.tolerable-failures=N` tolerates more of them.";

    /// A test wanted a step to fail.
    INJECTED = "S7010", Unavailable, "Unset STREAMRT_FAILPOINTS.";
    /// A new version of a job that cannot keep its state.
    INCOMPATIBLE = "S7011", Invalid, "Keep the uids, keys and types of state that are named, or start the new version without the old state.";
    /// A checkpoint names a component that the user has not put there.
    NOT_ACCEPTED = "S7012", Invalid, "If you upgraded the job, say so with `--accept DIGEST`, or name the newer component in the command; else somebody has changed the checkpoints.";
    /// A job that starts from a snapshot with other arguments than it was made with, which it would
    /// not follow.
    CHANGED_ARGUMENTS = "S7013", Invalid, "Give the arguments that the snapshot was made with, or choose one of the ways that are named.";
    /// What a JobManager has kept of a job cannot be read.
    REGISTRY_DAMAGED = "S7014", Data, "Put the entry that is named back from a backup and start the JobManager again, or deploy the job again with `--from`; other jobs are not concerned.";

    /// A task ended because another one did.
    CANCELLED = "S8001", Unavailable, "Another task ended first; its own message says why.";
    /// A user has cancelled the job.
    JOB_CANCELLED = "S8002", Unavailable, "Somebody gave `streamrt cancel`; the command that started the job goes on from its newest checkpoint, if it makes any.";
    /// Fewer slots are free than a job needs.
    NO_SLOTS = "S8003", Unavailable, "End another job, start the JobManager with more `--slots`, or deploy with a smaller `--parallelism`.";

    /// Bytes from another process that are no message of this version.
    BAD_MESSAGE = "S8004", Invalid, "Give all processes of the cluster the same version of streamrt, or an older one to those that send.";

    /// A bug of the engine.
    INTERNAL = "S9001", Internal, "This is a bug of streamrt; please report it with this message.";
}

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn codes_are_unique_and_ordered() {
        for pair in CODES.windows(2) {
            assert!(
                pair[0].id < pair[1].id,
                "{} stands before {}",
                pair[0].id,
                pair[1].id
            );
        }
    }
}
