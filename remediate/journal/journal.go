// Package journal remembers what the remediator intended and what came of it,
// across crashes. It decides which writer is the current one and refuses every
// other: a write names the revision that it replaces ([ErrConflict]) and belongs
// to a session whose epoch must still be the newest ([ErrFenced]). A journal
// that is damaged is refused as a whole, because a forgotten intent is a second
// replacement.
package journal

import (
	"context"
	"errors"
)

// ErrConflict is in the chain of an error about a record whose revision is not
// the expected one.
var ErrConflict = errors.New("conflict")

// ErrFenced is in the chain of an error about a session that a newer one ended.
var ErrFenced = errors.New("fenced by a newer session")

// Record is one value with the revision that it was written as.
type Record struct {
	Key string
	// Revision is 1 for a new record and one higher with each write.
	Revision uint64
	Value    []byte
}

// Journal is where sessions come from.
type Journal interface {
	// Acquire starts a session and ends every other one.
	Acquire(ctx context.Context) (Session, error)
}

// Session reads and writes while it is the newest. Its methods may be called
// concurrently; writes that meet are committed together where the store can.
type Session interface {
	// Epoch is higher than that of every earlier session.
	Epoch() uint64
	// Load gives all records, ordered by key.
	Load(ctx context.Context) ([]Record, error)
	// Put writes a record durably before it returns and gives its new revision.
	// The expected revision is the record's current one, 0 for a record that must
	// not exist. After an error other than ErrConflict and ErrFenced the write may
	// or may not have taken effect.
	Put(ctx context.Context, key string, expected uint64, value []byte) (revision uint64, err error)
	// Delete removes a record of the expected revision.
	Delete(ctx context.Context, key string, expected uint64) error
}
