package remotewrite

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

// position is a place in the spool: everything before it is settled. The zero
// position is the beginning.
type position struct {
	segment uint64
	offset  int64
}

// readCursor reads the saved place. A missing file is the beginning; a damaged
// one is the beginning and an error.
func readCursor(path string) (position, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return position{}, nil
	}
	if err != nil {
		return position{}, fmt.Errorf("read cursor: %w", err)
	}
	p, err := parseCursor(content)
	if err != nil {
		return position{}, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func parseCursor(content []byte) (position, error) {
	var p position
	// A cursor is accepted only if it is, byte for byte, what would be written.
	if _, err := fmt.Sscanf(string(content), "%d %d ", &p.segment, &p.offset); err != nil || string(formatCursor(p)) != string(content) || p.offset < 0 {
		return position{}, fmt.Errorf("damaged cursor %.40q", content)
	}
	return p, nil
}

func formatCursor(p position) []byte {
	text := fmt.Appendf(nil, "%d %d ", p.segment, p.offset)
	return fmt.Appendf(text, "%08x\n", crc32.Checksum(text, castagnoli))
}

// writeCursor replaces the saved place. It is not written through to the disk:
// losing the newest one only means sending a body twice.
func writeCursor(path string, p position) error {
	fresh := path + ".tmp"
	if err := os.WriteFile(fresh, formatCursor(p), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
