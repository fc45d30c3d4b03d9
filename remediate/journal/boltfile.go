package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"go.etcd.io/bbolt"
)

// bbolt maps its file into memory and trusts the length that the file claims
// for itself, so a truncated file would be a memory fault at some later read.
// The layout of its two meta pages is stable (version 2): page header, then
// magic, version, page size and flags (32 bits each), root bucket (128), free
// list (64), pages in use (64), transaction (64), checksum (64).
const (
	boltMagic      = 0xED0CDAED
	boltPageHeader = 16
	boltMetaSize   = 64
)

// createBolt makes an empty journal unless there is a file at path. It appears
// whole or not at all, so an empty or partial file is damage, never a beginning.
func createBolt(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	defer os.Remove(fresh)
	db, err := bbolt.Open(fresh, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(recordsBucket)
		if err != nil {
			return err
		}
		_, err = tx.CreateBucket(metaBucket)
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link does not replace what another process just made.
	if err := os.Link(fresh, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// checkFile refuses a file with a damaged meta page, and one that is shorter than
// its newest meta page says. With one damaged meta page bbolt would silently go
// back to the transaction before the last. A crash does not tear such a page,
// whose content is within one sector.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	pageSize := int64(os.Getpagesize())
	var newest, needed uint64
	for page := range int64(2) {
		buf := make([]byte, boltMetaSize)
		if _, err := f.ReadAt(buf, page*pageSize+boltPageHeader); err != nil {
			return fmt.Errorf("journal %s is truncated: %d bytes long, which is not even a header", path, info.Size())
		}
		m, ok := decodeMeta(buf)
		if !ok {
			return fmt.Errorf("journal %s is damaged: meta page %d is not valid", path, page)
		}
		if m.transaction >= newest {
			newest, needed = m.transaction, m.pages*uint64(m.pageSize)
		}
	}
	if uint64(info.Size()) < needed {
		return fmt.Errorf("journal %s is truncated: %d bytes long, should be %d", path, info.Size(), needed)
	}
	return nil
}

type boltMeta struct {
	pageSize           uint32
	pages, transaction uint64
}

// decodeMeta reads a meta page in the byte order of this machine, as bbolt does;
// it returns false for one that was not written completely.
func decodeMeta(b []byte) (boltMeta, bool) {
	order := binary.NativeEndian
	sum := fnv.New64a()
	sum.Write(b[:boltMetaSize-8])
	m := boltMeta{pageSize: order.Uint32(b[8:]), pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:])}
	return m, order.Uint32(b) == boltMagic && order.Uint64(b[56:]) == sum.Sum64()
}

// lockHolder says which process holds the lock on the file.
func lockHolder(path string) string {
	const unknown = "another process"
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return unknown
	}
	// "1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF"
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], ":"+strconv.FormatUint(st.Ino, 10)) {
			continue
		}
		name, err := os.ReadFile(filepath.Join("/proc", f[4], "comm"))
		if err != nil {
			return "process " + f[4]
		}
		return fmt.Sprintf("process %s (%s)", f[4], bytes.TrimSpace(name))
	}
	return unknown
}
