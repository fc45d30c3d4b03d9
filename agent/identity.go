package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// readBootID reads the id of the present boot, without which evidence cannot be
// told from history.
func readBootID(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(content))
	if !fault.ValidName(id) {
		return "", fmt.Errorf("read boot id: %s holds %.64q", path, id)
	}
	return id, nil
}

// readInstanceID reads the id of the instance, which EC2 puts into the board's
// asset tag. A machine that has none, or a text that cannot be one, gives the
// empty id: not known. It fails only where there is an id that may not be read.
func readInstanceID(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read instance id: %w", err)
	}
	id := strings.TrimSpace(string(content))
	if !fault.ValidName(id) {
		return "", nil
	}
	return id, nil
}
