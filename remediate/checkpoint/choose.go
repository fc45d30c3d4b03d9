package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Options configure a Store.
type Options struct {
	// Roots are the folders under which jobs keep their checkpoints. The folder
	// of a job comes from the orchestrator, where a user can set it, so nothing
	// outside the roots is looked at. Without roots every folder is refused.
	Roots []string
}

// Store chooses checkpoints on a file system. It implements
// [incident.Checkpoints].
type Store struct {
	roots []string

	mu      sync.Mutex
	looking map[string]bool // folders that are being read
}

var _ incident.Checkpoints = (*Store)(nil)

// New gives a store for checkpoints below the roots, which must be absolute.
func New(o Options) (*Store, error) {
	s := &Store{looking: make(map[string]bool)}
	for i, root := range o.Roots {
		if !filepath.IsAbs(root) {
			return nil, fmt.Errorf("roots[%d]: %q is not an absolute path", i, root)
		}
		s.roots = append(s.roots, filepath.Clean(root))
	}
	return s, nil
}

// Choose gives the newest whole checkpoint in the folder of a job, and why newer
// ones were refused. It fails, rather than to fall back to an older checkpoint,
// when one that may be newer cannot be read: trying again may save the work in
// between.
//
// A file system that hangs cannot be interrupted. Choose returns when ctx ends,
// and refuses to look at the same folder again until the hung call returns.
func (s *Store) Choose(ctx context.Context, dir string) (incident.Choice, error) {
	dir = filepath.Clean(dir)
	if !s.begin(dir) {
		return incident.Choice{}, fmt.Errorf("checkpoint folder %s: an earlier look at it has not returned yet", dir)
	}
	type result struct {
		choice incident.Choice
		err    error
	}
	done := make(chan result, 1)
	go func() {
		defer s.end(dir)
		choice, err := s.choose(ctx, dir)
		done <- result{choice, err}
	}()
	select {
	case r := <-done:
		return r.choice, r.err
	case <-ctx.Done():
		return incident.Choice{}, fmt.Errorf("checkpoint folder %s: the file system has not answered: %w", dir, ctx.Err())
	}
}

func (s *Store) begin(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking[dir] {
		return false
	}
	s.looking[dir] = true
	return true
}

func (s *Store) end(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.looking, dir)
}

func (s *Store) choose(ctx context.Context, dir string) (incident.Choice, error) {
	var choice incident.Choice
	root, err := s.open(dir)
	if err != nil {
		return choice, err
	}
	defer root.Close()
	var unknown error
	err = walk(ctx, root, dir, func(r Report) bool {
		switch r.State {
		case Whole:
			choice.Path, choice.Step = r.Path, r.Step
			return false
		case Unreadable:
			unknown = errors.Join(unknown, fmt.Errorf("read checkpoint %s: %s", r.Path, r.Reason))
		default:
			choice.Refused = append(choice.Refused, incident.Refusal{Path: r.Path, Reason: fmt.Sprintf("%s: %s", r.State, r.Reason)})
		}
		return true
	})
	if err = errors.Join(err, unknown); err != nil {
		return incident.Choice{}, err
	}
	return choice, nil
}

// open opens a folder below one of the roots, following no link out of it.
func (s *Store) open(dir string) (*os.Root, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("checkpoint folder %q is not an absolute path", dir)
	}
	for _, name := range s.roots {
		rel, err := filepath.Rel(name, dir)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, fmt.Errorf("open checkpoint root: %w", err)
		}
		defer root.Close()
		sub, err := root.OpenRoot(rel)
		if err != nil {
			return nil, fmt.Errorf("open checkpoint folder %s: %w", dir, err)
		}
		return sub, nil
	}
	return nil, fmt.Errorf("checkpoint folder %s is outside the allowed roots (%s)", dir, strings.Join(s.roots, ", "))
}
