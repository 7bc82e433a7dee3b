//! Opens the databases of a process.

use crate::disk::{Folder, RocksDisk};
use crate::error;
use crate::files::{self, FileNames};
use crate::options::Shared;
use crate::restore;
use rocksdb::DB;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use streamrt_state::{Backend, Disk, DiskPart};
use streamrt_types::Result;

/// All databases of a process, on one memory budget.
pub struct RocksBackend {
    shared: Arc<Shared>,
}

impl RocksBackend {
    /// Sets up the memory that all disks share: half of it for what was written last, the rest for
    /// blocks, indexes and filters. Less than 1 MiB counts as 1 MiB.
    ///
    /// # Errors
    /// `Internal` if the library refuses its options.
    pub fn new(memory_bytes: usize) -> Result<RocksBackend> {
        Ok(RocksBackend {
            shared: Arc::new(Shared::new(memory_bytes)?),
        })
    }

    /// Bytes of memory that the disks hold at this moment, by RocksDB's own account.
    pub fn memory_used_bytes(&self) -> usize {
        self.shared.cache.get_usage()
    }

    fn open_database(
        &self,
        folder: Folder,
        inherited: HashMap<String, String>,
        part: Option<&Path>,
    ) -> Result<RocksDisk> {
        let path = folder.database();
        let failed = |cause| match part {
            Some(part) => error::damaged(part, cause),
            None => error::failed("the state cannot be opened", &path, cause),
        };
        let options = &self.shared.database;
        // Opened by name, or there would be no handle of it, which a read of many keys needs.
        let families = [(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, options.clone())];
        let database = DB::open_cf_with_opts(options, &path, families).map_err(failed)?;
        let identity = database.get_db_identity().map_err(failed)?;
        let names = FileNames::new(String::from_utf8_lossy(&identity).into_owned(), inherited);
        Ok(RocksDisk::new(database, names, self.shared.clone(), folder))
    }
}

impl Backend for RocksBackend {
    fn open(&self, folder: &Path, parts: &[DiskPart]) -> Result<Arc<dyn Disk>> {
        let folder = Folder::create(folder)?;
        if let [
            DiskPart {
                folder: part,
                whole: true,
                ..
            },
        ] = parts
        {
            let inherited = files::unpack(part, &folder.database())?;
            return Ok(Arc::new(self.open_database(
                folder,
                inherited,
                Some(part),
            )?));
        }
        let disk = self.open_database(folder, HashMap::new(), None)?;
        restore::fill(&disk, parts)?;
        Ok(Arc::new(disk))
    }
}
