package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// batchDelay is how long a write waits for others to share its fsync; an fsync
// itself takes about as long on a good disk.
const batchDelay = 2 * time.Millisecond

var (
	recordsBucket = []byte("records")
	metaBucket    = []byte("meta")
	epochKey      = []byte("epoch")
	countKey      = []byte("count")
)

// Bolt is a journal in one file, for one remediator: the file is locked while
// it is open, and each commit is synced to the disk.
type Bolt struct {
	db *bbolt.DB
}

// OpenBolt opens or makes the journal and verifies all of it. It waits up to
// lockTimeout for another process to let go of the file.
func OpenBolt(path string, lockTimeout time.Duration) (*Bolt, error) {
	if err := createBolt(path); err != nil {
		return nil, fmt.Errorf("make journal %s: %w", path, err)
	}
	if err := checkFile(path); err != nil {
		return nil, err
	}
	b, err := openVerified(path, lockTimeout)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("journal %s is in use by %s: only one remediator may run on it", path, lockHolder(path))
	}
	if err != nil {
		return nil, fmt.Errorf("journal %s is damaged (%w): nothing is done without it; restore it, or move it away once no repair of a node is in progress", path, err)
	}
	return b, nil
}

// openVerified turns the panics and memory faults by which a damaged file shows
// itself into errors.
func openVerified(path string, lockTimeout time.Duration) (b *Bolt, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var db *bbolt.DB
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
		if err != nil && db != nil {
			db.Close()
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return nil, err
	}
	db.MaxBatchDelay = batchDelay
	if err := db.View(verify); err != nil {
		return nil, err
	}
	return &Bolt{db: db}, nil
}

// verify walks the whole tree. The number of records is kept beside them, since
// a damaged branch can hide some without a trace.
func verify(tx *bbolt.Tx) error {
	records, meta := tx.Bucket(recordsBucket), tx.Bucket(metaBucket)
	if records == nil || meta == nil {
		return errors.New("it is no journal")
	}
	for err := range tx.Check() {
		return err
	}
	var n uint64
	var last []byte
	err := records.ForEach(func(k, v []byte) error {
		if n++; last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("record %q is out of order", k)
		}
		last = bytes.Clone(k)
		_, err := decodeEntry(k, v)
		return err
	})
	if err != nil {
		return err
	}
	if want := number(meta, countKey); n != want {
		return fmt.Errorf("it holds %d records and should hold %d", n, want)
	}
	return nil
}

// Close lets go of the file.
func (b *Bolt) Close() error { return b.db.Close() }

// Acquire implements [Journal].
func (b *Bolt) Acquire(ctx context.Context) (Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &boltSession{db: b.db}
	err := b.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		s.epoch = number(meta, epochKey) + 1
		return putNumber(meta, epochKey, s.epoch)
	})
	if err != nil {
		return nil, fmt.Errorf("acquire journal: %w", err)
	}
	return s, nil
}

type boltSession struct {
	db    *bbolt.DB
	epoch uint64
}

func (s *boltSession) Epoch() uint64 { return s.epoch }

func (s *boltSession) Load(ctx context.Context) ([]Record, error) {
	var records []Record
	err := s.db.View(func(tx *bbolt.Tx) error {
		if err := s.admit(ctx, tx); err != nil {
			return err
		}
		return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
			r, err := decodeEntry(k, v)
			if err != nil {
				return err
			}
			records = append(records, r)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load journal: %w", err)
	}
	return records, nil
}

func (s *boltSession) Put(ctx context.Context, key string, expected uint64, value []byte) (uint64, error) {
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		records, err := s.expect(ctx, tx, key, expected)
		if err != nil {
			return err
		}
		if expected == 0 {
			meta := tx.Bucket(metaBucket)
			if err := putNumber(meta, countKey, number(meta, countKey)+1); err != nil {
				return err
			}
		}
		return records.Put([]byte(key), encodeEntry(key, expected+1, value))
	})
	if err != nil {
		return 0, fmt.Errorf("write journal: %w", err)
	}
	return expected + 1, nil
}

func (s *boltSession) Delete(ctx context.Context, key string, expected uint64) error {
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		records, err := s.expect(ctx, tx, key, expected)
		if err != nil {
			return err
		}
		meta := tx.Bucket(metaBucket)
		if err := putNumber(meta, countKey, number(meta, countKey)-1); err != nil {
			return err
		}
		return records.Delete([]byte(key))
	})
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// expect admits the session and checks the record's revision.
func (s *boltSession) expect(ctx context.Context, tx *bbolt.Tx, key string, expected uint64) (*bbolt.Bucket, error) {
	if err := s.admit(ctx, tx); err != nil {
		return nil, err
	}
	records := tx.Bucket(recordsBucket)
	var current uint64
	if v := records.Get([]byte(key)); v != nil {
		r, err := decodeEntry([]byte(key), v)
		if err != nil {
			return nil, err
		}
		current = r.Revision
	}
	return records, checkRevision(key, current, expected)
}

func (s *boltSession) admit(ctx context.Context, tx *bbolt.Tx) error {
	if newest := number(tx.Bucket(metaBucket), epochKey); newest != s.epoch {
		return fmt.Errorf("journal epoch %d: %w", s.epoch, ErrFenced)
	}
	return ctx.Err()
}

// An entry is a checksum of all else (4 bytes), the revision (8 bytes), both
// big-endian, and the value. The checksum covers the key as well.
const entryHeader = 4 + 8

func encodeEntry(key string, revision uint64, value []byte) []byte {
	entry := binary.BigEndian.AppendUint64(make([]byte, 4, entryHeader+len(value)), revision)
	entry = append(entry, value...)
	binary.BigEndian.PutUint32(entry, entrySum([]byte(key), entry[4:]))
	return entry
}

func decodeEntry(key, entry []byte) (Record, error) {
	if len(entry) < entryHeader || binary.BigEndian.Uint32(entry) != entrySum(key, entry[4:]) {
		return Record{}, fmt.Errorf("record %q: checksum does not match", key)
	}
	return Record{Key: string(key), Revision: binary.BigEndian.Uint64(entry[4:]), Value: bytes.Clone(entry[entryHeader:])}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func entrySum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func number(b *bbolt.Bucket, key []byte) uint64 {
	v := b.Get(key)
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

func putNumber(b *bbolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}
