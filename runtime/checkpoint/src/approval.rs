//! The user's word that a component may take the place of another one, which an upgrade gives and a
//! restart asks for.
//!
//! Whoever may write into a checkpoint folder could else choose the code that runs with the user's
//! rights. So a manifest that names a component in the place of the one that the job was started
//! with carries a code that only this user can compute, with a key that is kept elsewhere. It
//! stands for one job, one component before, and one after.

use crate::PluginEntry;

/// Tells the key of this purpose from all others that are made of the same secret.
const PURPOSE: &str = "streamrt approval of an upgrade";

/// Makes approvals, and knows them again.
pub struct ApprovalKey([u8; blake3::KEY_LEN]);

impl ApprovalKey {
    /// `secret` is the user's.
    pub fn new(secret: &[u8; 32]) -> ApprovalKey {
        ApprovalKey(blake3::derive_key(PURPOSE, secret))
    }

    /// That the component `digest` may run where job `job` was started with `replaces`.
    pub fn approve(&self, job: &str, replaces: &str, digest: &str) -> String {
        self.code(job, replaces, digest).to_hex().to_string()
    }

    /// Whether the user has approved of what stands in a manifest.
    pub fn approves(&self, job: &str, plugin: &PluginEntry) -> bool {
        let given = plugin
            .approval
            .as_deref()
            .and_then(|approval| blake3::Hash::from_hex(approval).ok());
        // Hashes are compared in a time that does not depend on them.
        given
            .zip(plugin.replaces.as_deref())
            .is_some_and(|(given, replaces)| given == self.code(job, replaces, &plugin.digest))
    }

    fn code(&self, job: &str, replaces: &str, digest: &str) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in [job, replaces, digest] {
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stored;

    fn entry(replaces: Option<&str>, digest: &str, approval: Option<String>) -> PluginEntry {
        let component = Stored::of("plugins/x.wasm", b"x");
        PluginEntry {
            name: String::new(),
            digest: digest.into(),
            args: Vec::new(),
            component,
            replaces: replaces.map(str::to_owned),
            approval,
        }
    }

    #[test]
    fn an_approval_is_for_one_job_and_one_upgrade_by_one_user() {
        let key = ApprovalKey::new(&[1; 32]);
        let approval = || Some(key.approve("job", "old", "new"));
        let check = |key: &ApprovalKey, job: &str, entry: PluginEntry| key.approves(job, &entry);
        assert!(check(&key, "job", entry(Some("old"), "new", approval())));
        assert!(
            !check(&key, "other", entry(Some("old"), "new", approval())),
            "another job"
        );
        assert!(
            !check(&key, "job", entry(Some("older"), "new", approval())),
            "in the place of another one"
        );
        assert!(
            !check(&key, "job", entry(Some("old"), "evil", approval())),
            "another component"
        );
        assert!(
            !check(&key, "job", entry(Some("oldn"), "ew", approval())),
            "the parts are cut elsewhere"
        );
        assert!(
            !check(&key, "job", entry(None, "new", approval())),
            "in nobody's place"
        );
        assert!(
            !check(
                &ApprovalKey::new(&[2; 32]),
                "job",
                entry(Some("old"), "new", approval())
            ),
            "another user"
        );
        for forged in [
            None,
            Some(String::new()),
            Some("00".repeat(32)),
            Some("é".into()),
        ] {
            assert!(!check(&key, "job", entry(Some("old"), "new", forged)));
        }
    }
}
