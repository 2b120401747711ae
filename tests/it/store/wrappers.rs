//! The wrappers, around the store in memory.

mod instrumented {
    use std::sync::{Arc, Mutex};

    use lbctl::store::{Instrumented, MemoryCopy, MemoryStore, SharedStore};

    use crate::store::conformance::{Backend, conformance};

    struct Wrapped {
        store: MemoryStore,
        copied: Mutex<Option<MemoryCopy>>,
    }

    impl Backend for Wrapped {
        async fn fresh() -> Option<Self> {
            Some(Self { store: MemoryStore::new(), copied: Mutex::default() })
        }

        async fn handle(&self) -> SharedStore {
            Arc::new(Instrumented::new(self.store.clone()))
        }

        async fn copy(&self) -> bool {
            *self.copied.lock().unwrap() = Some(self.store.copy());
            true
        }

        async fn put_back(&self) {
            self.store.restore(self.copied.lock().unwrap().take().unwrap());
        }

        async fn lose_all(&self) -> bool {
            self.store.restore(MemoryStore::new().copy());
            true
        }
    }

    conformance!(Wrapped);
}

mod faulty {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use lbctl::store::{Faults, Faulty, MemoryCopy, MemoryStore, SharedStore};

    use crate::store::conformance::{Backend, conformance};

    /// Slow handles, whose way to the store can be cut.
    struct Wrapped {
        store: MemoryStore,
        handles: Mutex<Vec<Faulty<MemoryStore>>>,
        copied: Mutex<Option<MemoryCopy>>,
    }

    impl Wrapped {
        fn set_offline(&self, offline: bool) {
            for handle in self.handles.lock().unwrap().iter() {
                handle.set_offline(offline);
            }
        }
    }

    impl Backend for Wrapped {
        async fn fresh() -> Option<Self> {
            let store = MemoryStore::new();
            Some(Self { store, handles: Mutex::default(), copied: Mutex::default() })
        }

        async fn handle(&self) -> SharedStore {
            let mut handles = self.handles.lock().unwrap();
            let handle = Faulty::new(self.store.clone(), handles.len() as u64);
            let max_delay = Duration::from_millis(3);
            handle.set_faults(Faults { delay: 0.3, max_delay, ..Faults::default() });
            handles.push(handle.clone());
            Arc::new(handle)
        }

        async fn cut(&self) -> bool {
            self.set_offline(true);
            true
        }

        async fn mend(&self) {
            self.set_offline(false);
        }

        async fn copy(&self) -> bool {
            *self.copied.lock().unwrap() = Some(self.store.copy());
            true
        }

        async fn put_back(&self) {
            self.store.restore(self.copied.lock().unwrap().take().unwrap());
        }

        async fn lose_all(&self) -> bool {
            self.store.restore(MemoryStore::new().copy());
            true
        }
    }

    conformance!(Wrapped);
}
