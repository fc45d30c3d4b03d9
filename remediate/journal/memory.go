package journal

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Memory is a journal that lives as long as the process: for tests and dry runs.
// The zero value is empty and ready.
type Memory struct {
	mu      sync.Mutex // guards everything that follows
	epoch   uint64
	records map[string]Record
}

// Acquire implements [Journal].
func (m *Memory) Acquire(ctx context.Context) (Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = make(map[string]Record)
	}
	m.epoch++
	return &memorySession{m: m, epoch: m.epoch}, nil
}

// Records gives what the journal holds, ordered by key, without a session: for
// those who watch.
func (m *Memory) Records() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sorted()
}

func (m *Memory) sorted() []Record {
	records := slices.SortedFunc(maps.Values(m.records), func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
	for i := range records {
		records[i].Value = bytes.Clone(records[i].Value)
	}
	return records
}

type memorySession struct {
	m     *Memory
	epoch uint64
}

func (s *memorySession) Epoch() uint64 { return s.epoch }

func (s *memorySession) Load(ctx context.Context) ([]Record, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	return s.m.sorted(), nil
}

func (s *memorySession) Put(ctx context.Context, key string, expected uint64, value []byte) (uint64, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.admit(ctx); err != nil {
		return 0, err
	}
	if err := checkRevision(key, s.m.records[key].Revision, expected); err != nil {
		return 0, err
	}
	s.m.records[key] = Record{Key: key, Revision: expected + 1, Value: bytes.Clone(value)}
	return expected + 1, nil
}

func (s *memorySession) Delete(ctx context.Context, key string, expected uint64) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if err := s.admit(ctx); err != nil {
		return err
	}
	if err := checkRevision(key, s.m.records[key].Revision, expected); err != nil {
		return err
	}
	delete(s.m.records, key)
	return nil
}

func (s *memorySession) admit(ctx context.Context) error {
	if s.epoch != s.m.epoch {
		return fmt.Errorf("journal epoch %d: %w", s.epoch, ErrFenced)
	}
	return ctx.Err()
}

func checkRevision(key string, current, expected uint64) error {
	if current != expected {
		return fmt.Errorf("journal record %q is at revision %d, not %d: %w", key, current, expected, ErrConflict)
	}
	return nil
}
