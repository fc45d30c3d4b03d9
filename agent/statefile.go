package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// stateSchema is the version of the state file that this code reads and writes.
const stateSchema = 1

// maxStateBytes bounds a state file; a full engine's is far smaller.
const maxStateBytes = 8 << 20

// persisted is what survives a restart of the agent.
type persisted struct {
	Schema int `json:"schema"`
	// Incarnation is the last one used.
	Incarnation int64 `json:"incarnation"`
	// Findings is the engine's, see [health.Engine.Save].
	Findings json.RawMessage `json:"findings,omitempty"`
	// Resume says where each source continues.
	Resume map[string][]byte `json:"resume,omitempty"`
}

// stateFile is the file in which state survives. It is replaced as a whole and
// written through to the disk, so that after a crash of the machine it is either
// the old one or the new one.
type stateFile struct {
	path    string
	written []byte // what the file holds, nil if not known
}

// load reads the state. A file that does not exist is no state. A damaged one is
// set aside, so that nothing is lost, and is no state and an error.
func (f *stateFile) load() (persisted, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return persisted{}, nil
	}
	if err != nil {
		return persisted{}, fmt.Errorf("read state: %w", err)
	}
	if info.Size() > maxStateBytes {
		return persisted{}, f.setAside(fmt.Errorf("larger than %d bytes", maxStateBytes))
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		return persisted{}, fmt.Errorf("read state: %w", err)
	}
	var p persisted
	if err := json.Unmarshal(content, &p); err != nil {
		return persisted{}, f.setAside(err)
	}
	if p.Schema != stateSchema || p.Incarnation < 0 {
		return persisted{}, f.setAside(fmt.Errorf("has schema %d and incarnation %d", p.Schema, p.Incarnation))
	}
	return p, nil
}

// setAside renames the file and says why.
func (f *stateFile) setAside(why error) error {
	aside := f.path + ".unusable"
	if err := os.Rename(f.path, aside); err != nil {
		return fmt.Errorf("state %s: %w; and it cannot be set aside: %w", f.path, why, err)
	}
	return fmt.Errorf("state %s: %w; kept as %s", f.path, why, aside)
}

// save replaces the file if the state differs from what it holds.
func (f *stateFile) save(p persisted) error {
	p.Schema = stateSchema
	content, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	if bytes.Equal(content, f.written) {
		return nil
	}
	f.written = nil
	if err := replace(f.path, content); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	f.written = content
	return nil
}

// replace gives the file new content, durably and all at once.
func replace(path string, content []byte) error {
	fresh := path + ".tmp"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
