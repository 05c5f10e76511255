//! Canister memory that can be rolled back, on sparse memory files.
//!
//! An [`Image`] is what the canister has committed. A message sees it through copy-on-write:
//! the heap as a private mapping of the file ([`HeapMapping`]), stable memory as a map of changed
//! pages over it ([`StableView`]). To roll back is to drop the view; nothing was copied. To commit
//! is to write a [`Delta`], the pages whose content differs, into the file.
//!
//! The pages a message wrote to its heap come from `/proc/self/pagemap`: a private page that is
//! present and no longer file-backed was written. Their content is then compared with the file,
//! which is also how the Internet Computer decides which pages are dirty.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard};

pub const PAGE: usize = 4096;
pub const WASM_PAGE: u64 = 65536;
pub const HEAP_BYTES_MAX: u64 = 4 << 30;
pub const STABLE_BYTES_MAX: u64 = 500 << 30;
/// Loads and stores with a static offset below this need no bounds check: they hit the guard.
pub const HEAP_GUARD_BYTES: usize = 32 << 20;

pub type Page = Box<[u8; PAGE]>;

/// Charges are for pages of this size, and the kernel has to count in the same ones.
pub fn host_has_our_pages() -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) == PAGE as libc::c_long }
}

/// Page numbers are already well spread; hashing them properly would cost more than the lookup.
#[derive(Default)]
pub struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only page numbers are hashed")
    }
    fn write_u64(&mut self, page: u64) {
        self.0 = page.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Pages = HashMap<u64, Page, BuildHasherDefault<PageHasher>>;

/// Changed pages over an [`Image`], and the length of the memory with them.
#[derive(Clone, Default)]
pub struct Delta {
    pub len: u64,
    pub pages: Pages,
}

/// The committed content of one memory. Cloning shares it.
#[derive(Clone)]
pub struct Image {
    file: Arc<OwnedFd>,
    map: Arc<SharedMap>,
    capacity: u64,
    len: u64,
    saved: Arc<Mutex<Saved>>,
}

/// The file that an image was saved to, and the pages that have changed since.
#[derive(Default)]
pub struct Saved {
    pub file: Option<String>,
    changed: PageSet,
}

impl Saved {
    /// The changed pages, from now on counted as saved.
    pub fn take_changed(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.changed).into_iter()
    }
}

/// A bit for each page.
#[derive(Default)]
struct PageSet(Vec<u64>);

impl PageSet {
    fn insert(&mut self, page: u64) {
        let word = (page / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (page % 64);
    }

    fn into_iter(self) -> impl Iterator<Item = u64> {
        let pages = |(index, word): (usize, u64)| {
            let first = index as u64 * 64;
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        };
        self.0.into_iter().enumerate().filter(|(_, word)| *word != 0).flat_map(pages)
    }
}

impl Image {
    pub fn heap() -> io::Result<Image> {
        Image::with_capacity(HEAP_BYTES_MAX)
    }

    pub fn stable() -> io::Result<Image> {
        Image::with_capacity(STABLE_BYTES_MAX)
    }

    fn with_capacity(capacity: u64) -> io::Result<Image> {
        // SAFETY: a plain system call; the name is a valid C string.
        let raw = unsafe { libc::memfd_create(c"canister".as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` was just created and belongs to nobody else.
        let file = Arc::new(unsafe { OwnedFd::from_raw_fd(raw) });
        // The file has its full size from the start, so that a mapping never runs past its end;
        // it is sparse and takes memory only where something was written.
        // SAFETY: a plain system call on our own descriptor.
        if unsafe { libc::ftruncate(raw, capacity as libc::off_t) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let map = Arc::new(SharedMap::new(&file, 0)?);
        Ok(Image { file, map, capacity, len: 0, saved: Arc::default() })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap()
    }

    pub fn page(&self, number: u64) -> &[u8; PAGE] {
        const ZEROS: &[u8; PAGE] = &[0; PAGE];
        let start = number as usize * PAGE;
        if start as u64 >= self.len {
            return ZEROS;
        }
        // SAFETY: `commit` keeps the map at least as long as `len`, and nobody writes to it while
        // an image is read: commits happen under the instance's write lock.
        unsafe { &*(self.map.base.add(start) as *const [u8; PAGE]) }
    }

    pub fn commit(&mut self, delta: Delta) -> io::Result<()> {
        if delta.len > self.map.len as u64 {
            let len = delta.len.next_power_of_two().clamp(1 << 24, self.capacity);
            self.map = Arc::new(SharedMap::new(&self.file, len as usize)?);
        }
        let mut saved = self.saved.lock().unwrap();
        for (number, content) in &delta.pages {
            let start = *number as usize * PAGE;
            assert!(start + PAGE <= self.map.len, "a delta holds no page beyond its length");
            saved.changed.insert(*number);
            // SAFETY: inside the map, as just checked; no reader exists during a commit.
            unsafe {
                ptr::copy_nonoverlapping(content.as_ptr(), self.map.base.add(start), PAGE);
            }
        }
        drop(saved);
        self.len = delta.len;
        Ok(())
    }

    /// The same content in a memory of its own.
    pub fn copy(&self) -> io::Result<Image> {
        let mut copy = Image::with_capacity(self.capacity)?;
        copy.commit(Delta { len: self.len, pages: Pages::default() })?;
        copy_data(
            &File::from(self.file.try_clone()?),
            &File::from(copy.file.try_clone()?),
            self.len,
        )?;
        Ok(copy)
    }

    /// Everything, for `get_stable_memory`.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = vec![0; self.len as usize];
        if !all.is_empty() {
            // SAFETY: the map is at least `len` long.
            unsafe { ptr::copy_nonoverlapping(self.map.base, all.as_mut_ptr(), all.len()) };
        }
        all
    }

    /// A memory with the given content, rounded up to whole wasm pages.
    pub fn stable_of(content: &[u8]) -> io::Result<Image> {
        let mut image = Image::stable()?;
        let mut delta = Delta {
            len: (content.len() as u64).next_multiple_of(WASM_PAGE),
            pages: Pages::default(),
        };
        for (number, chunk) in content.chunks(PAGE).enumerate() {
            let mut page = Box::new([0; PAGE]);
            page[..chunk.len()].copy_from_slice(chunk);
            delta.pages.insert(number as u64, page);
        }
        image.commit(delta)?;
        Ok(image)
    }

    /// Writes the memory as a sparse file.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let to = File::create(path)?;
        to.set_len(self.len)?;
        let from = File::from(self.file.try_clone()?);
        copy_data(&from, &to, self.len)?;
        to.sync_all()
    }

    /// Reads so much of what [`Image::save`] wrote into this empty memory.
    pub fn load(mut self, path: &Path, len: u64) -> io::Result<Image> {
        let from = File::open(path)?;
        self.commit(Delta { len, pages: Pages::default() })?;
        let to = File::from(self.file.try_clone()?);
        copy_data(&from, &to, len)?;
        Ok(self)
    }
}

/// Copies what is not a hole.
fn copy_data(from: &File, to: &File, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        // SAFETY: plain system calls on an open file.
        let start = unsafe { libc::lseek(from.as_raw_fd(), at as i64, libc::SEEK_DATA) };
        if start < 0 {
            return Ok(()); // Only a hole is left.
        }
        // SAFETY: as above.
        let end = unsafe { libc::lseek(from.as_raw_fd(), start, libc::SEEK_HOLE) };
        let (mut start, end) = (start as u64, (end as u64).min(len));
        while start < end {
            let step = buffer.len().min((end - start) as usize);
            from.read_exact_at(&mut buffer[..step], start)?;
            to.write_all_at(&buffer[..step], start)?;
            start += step as u64;
        }
        at = end.max(start);
    }
    Ok(())
}

/// A mapping of the file itself: reads see the committed content, writes commit.
struct SharedMap {
    base: *mut u8,
    len: usize,
}

// SAFETY: who may write is decided by the instance's lock, see `Image::page`.
unsafe impl Send for SharedMap {}
// SAFETY: as above.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    fn new(file: &OwnedFd, len: usize) -> io::Result<SharedMap> {
        if len == 0 {
            let base = ptr::NonNull::dangling().as_ptr();
            return Ok(SharedMap { base, len });
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let base = map(ptr::null_mut(), len, prot, flags, file.as_raw_fd())?;
        Ok(SharedMap { base, len })
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: our own mapping, unmapped once.
            unsafe { libc::munmap(self.base.cast(), self.len) };
        }
    }
}

fn map(at: *mut u8, len: usize, prot: i32, flags: i32, fd: i32) -> io::Result<*mut u8> {
    // SAFETY: with MAP_FIXED the caller passes a range of its own reservation.
    let got = unsafe { libc::mmap(at.cast(), len, prot, flags, fd, 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(got.cast())
}

/// The heap as the next message will see it.
#[derive(Clone)]
pub struct HeapView {
    pub image: Image,
    pub delta: Delta,
}

impl HeapView {
    pub fn of(image: &Image) -> HeapView {
        HeapView { image: image.clone(), delta: Delta { len: image.len, pages: Pages::default() } }
    }
}

/// The address space of one execution's heap.
pub struct HeapMapping {
    base: *mut u8,
    reserved: usize,
    len: usize,
}

// SAFETY: owned by one store, used by one thread at a time.
unsafe impl Send for HeapMapping {}
// SAFETY: as above.
unsafe impl Sync for HeapMapping {}

impl HeapMapping {
    pub fn new(view: &HeapView, len_min: usize) -> io::Result<HeapMapping> {
        let reserved = HEAP_BYTES_MAX as usize + HEAP_GUARD_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let base = map(ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1)?;
        let mut mapping = HeapMapping { base, reserved, len: 0 };
        mapping.map_image(&view.image)?;
        mapping.grow_to(len_min.max(view.delta.len as usize))?;
        for (number, content) in &view.delta.pages {
            let start = *number as usize * PAGE;
            assert!(start + PAGE <= mapping.len, "a delta holds no page beyond its length");
            // SAFETY: inside our own mapping.
            unsafe { ptr::copy_nonoverlapping(content.as_ptr(), base.add(start), PAGE) };
        }
        Ok(mapping)
    }

    fn map_image(&mut self, image: &Image) -> io::Result<()> {
        if image.len == 0 {
            return Ok(());
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
        self.len = image.len as usize;
        map(self.base, self.len, prot, flags, image.file.as_raw_fd())?;
        Ok(())
    }

    pub fn grow_to(&mut self, len: usize) -> io::Result<()> {
        if len <= self.len {
            return Ok(());
        }
        if len as u64 > HEAP_BYTES_MAX {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        // Anonymous, not the file: a fault on a hole of the file would allocate a page in it too.
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range lies inside our reservation.
        let at = unsafe { self.base.add(self.len) };
        map(at, len - self.len, prot, flags, -1)?;
        self.len = len;
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for HeapMapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once.
        unsafe { libc::munmap(self.base.cast(), self.reserved) };
    }
}

/// Tells which pages of a [`HeapMapping`] were written.
pub struct Pagemap(Option<File>);

impl Pagemap {
    /// Without pagemap (some sandboxes forbid it) every page is compared: slower, same result.
    pub fn open() -> Pagemap {
        Pagemap(File::open("/proc/self/pagemap").ok())
    }

    /// The pages of `heap`, a live mapping of `image`, whose content differs from the image.
    pub fn delta(&self, heap: &[u8], image: &Image) -> Delta {
        let mut delta = Delta { len: heap.len() as u64, pages: Pages::default() };
        self.for_each_written(heap, |number| {
            let start = number as usize * PAGE;
            let content: &[u8; PAGE] = heap[start..start + PAGE].try_into().expect("one page");
            if content != image.page(number) {
                delta.pages.insert(number, Box::new(*content));
            }
        });
        delta
    }

    fn for_each_written(&self, heap: &[u8], mut found: impl FnMut(u64)) {
        const ENTRIES: usize = 8192;
        let pages = heap.len() / PAGE;
        let first = heap.as_ptr() as usize / PAGE;
        let mut buffer = vec![0u8; ENTRIES * 8];
        for start in (0..pages).step_by(ENTRIES) {
            let count = ENTRIES.min(pages - start);
            let entries = &mut buffer[..count * 8];
            if !self.read((first + start) as u64 * 8, entries) {
                (start..start + count).for_each(|page| found(page as u64));
                continue;
            }
            for (index, entry) in entries.chunks_exact(8).enumerate() {
                let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
                if is_written(entry) {
                    found((start + index) as u64);
                }
            }
        }
    }

    fn read(&self, at: u64, entries: &mut [u8]) -> bool {
        let Some(file) = &self.0 else { return false };
        file.read_exact_at(entries, at).is_ok()
    }
}

/// Present or swapped out, and not a page of the file: a private copy.
fn is_written(entry: u64) -> bool {
    entry >> 62 != 0 && entry >> 61 & 1 == 0
}

/// Stable memory as one execution sees it.
#[derive(Clone)]
pub struct StableView {
    pub image: Image,
    pub delta: Delta,
    /// Pages this execution was the first to change; each is charged for.
    pub pages_written: u64,
}

impl StableView {
    pub fn of(image: &Image) -> StableView {
        StableView { image: image.clone(), delta: HeapView::of(image).delta, pages_written: 0 }
    }

    pub fn len(&self) -> u64 {
        self.delta.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn grow(&mut self, bytes: u64) {
        self.delta.len += bytes;
    }

    /// The caller has checked that the range lies within `len`.
    pub fn read(&self, mut at: u64, mut to: &mut [u8]) {
        while !to.is_empty() {
            let (number, offset) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let step = to.len().min(PAGE - offset);
            let page = match self.delta.pages.get(&number) {
                Some(page) => page,
                None => self.image.page(number),
            };
            let (now, rest) = to.split_at_mut(step);
            now.copy_from_slice(&page[offset..offset + step]);
            to = rest;
            at += step as u64;
        }
    }

    /// How many pages a write to this range would change for the first time.
    pub fn pages_new(&self, at: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (at / PAGE as u64, (at + len - 1) / PAGE as u64);
        (first..=last).filter(|number| !self.delta.pages.contains_key(number)).count() as u64
    }

    /// The caller has checked that the range lies within `len`.
    pub fn write(&mut self, mut at: u64, mut from: &[u8]) {
        while !from.is_empty() {
            let (number, offset) = (at / PAGE as u64, (at % PAGE as u64) as usize);
            let step = from.len().min(PAGE - offset);
            let page = self.delta.pages.entry(number).or_insert_with(|| {
                self.pages_written += 1;
                Box::new(*self.image.page(number))
            });
            page[offset..offset + step].copy_from_slice(&from[..step]);
            from = &from[step..];
            at += step as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stable_write_is_seen_only_after_its_commit() {
        let mut image = Image::stable().unwrap();
        let mut view = StableView::of(&image);
        view.grow(WASM_PAGE);
        view.write(4090, b"across a page");
        assert_eq!(view.pages_written, 2);
        assert_eq!(StableView::of(&image).len(), 0);

        image.commit(view.delta).unwrap();
        let mut read = [0; 13];
        StableView::of(&image).read(4090, &mut read);
        assert_eq!(&read, b"across a page");
    }

    #[test]
    fn a_dropped_heap_mapping_leaves_the_image_alone() {
        let pagemap = Pagemap::open();
        let mut image = Image::heap().unwrap();
        let heap = HeapMapping::new(&HeapView::of(&image), 2 * WASM_PAGE as usize).unwrap();
        // SAFETY: the mapping is that long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(heap.base(), heap.len()) };
        bytes[5000] = 7;
        let delta = pagemap.delta(bytes, &image);
        assert_eq!(delta.pages.keys().copied().collect::<Vec<_>>(), [1]);
        image.commit(delta).unwrap();

        let again = HeapMapping::new(&HeapView::of(&image), 0).unwrap();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(again.base(), again.len()) };
        assert_eq!(bytes[5000], 7);
        bytes[5000] = 8;
        drop(again);
        assert_eq!(image.page(1)[5000 - PAGE], 7);
    }

    #[test]
    fn a_page_written_with_the_same_content_is_not_changed() {
        let pagemap = Pagemap::open();
        let image = Image::heap().unwrap();
        let heap = HeapMapping::new(&HeapView::of(&image), WASM_PAGE as usize).unwrap();
        // SAFETY: the mapping is that long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(heap.base(), heap.len()) };
        bytes[1] = 1;
        bytes[1] = 0;
        assert!(pagemap.delta(bytes, &image).pages.is_empty());
    }

    #[test]
    fn without_pagemap_the_changed_pages_are_the_same() {
        let image = Image::heap().unwrap();
        let heap = HeapMapping::new(&HeapView::of(&image), WASM_PAGE as usize).unwrap();
        // SAFETY: the mapping is that long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(heap.base(), heap.len()) };
        (bytes[0], bytes[9 * PAGE]) = (1, 2);
        for pagemap in [Pagemap::open(), Pagemap(None)] {
            let mut pages: Vec<u64> = pagemap.delta(bytes, &image).pages.into_keys().collect();
            pages.sort_unstable();
            assert_eq!(pages, [0, 9]);
        }
    }

    #[test]
    fn a_saved_memory_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let image = Image::stable_of(&vec![9; 100_000]).unwrap();
        image.save(&path).unwrap();
        let back = Image::stable().unwrap().load(&path, image.len()).unwrap();
        assert_eq!(back.len(), 131_072);
        assert!(back.to_vec() == image.to_vec());
    }
}
