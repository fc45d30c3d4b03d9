package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// Listing is what was found out about all checkpoints of a job.
type Listing struct {
	Dir string `json:"dir"`
	// Checkpoints are ordered newest step first.
	Checkpoints []Report `json:"checkpoints"`
}

// List inspects every checkpoint in the folder of a job. A folder that cannot
// be read is an error.
func List(ctx context.Context, dir string) (Listing, error) {
	l := Listing{Dir: filepath.Clean(dir), Checkpoints: []Report{}}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return l, fmt.Errorf("open checkpoint folder: %w", err)
	}
	defer root.Close()
	err = walk(ctx, root, l.Dir, func(r Report) bool {
		l.Checkpoints = append(l.Checkpoints, r)
		return true
	})
	return l, err
}

// walk inspects the checkpoints in root, which is called dir, newest step
// first, until f has seen enough.
func walk(ctx context.Context, root *os.Root, dir string, f func(Report) bool) error {
	names, err := steps(root)
	if err != nil {
		return fmt.Errorf("read checkpoint folder %s: %w", dir, err)
	}
	for _, name := range names {
		r, found, err := inspectStep(ctx, root, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if found && !f(r) {
			return nil
		}
	}
	return nil
}

// steps gives the names of the step folders, newest step first.
func steps(root *os.Root) ([]string, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if stepOf(e.Name()) >= 0 {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(stepOf(b), stepOf(a)), cmp.Compare(a, b))
	})
	return names, nil
}

// inspectStep inspects one step folder; not found if it is no folder, or was
// deleted meanwhile, as trainers that keep only the latest few do.
func inspectStep(ctx context.Context, parent *os.Root, path string) (r Report, found bool, err error) {
	name := filepath.Base(path)
	root, err := openFolder(parent, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, false, nil
	case err != nil:
		r = Report{Path: path, Step: stepOf(name)}
		if leadsOut(parent, name) {
			r.set(Malformed, err.Error())
		} else {
			r.set(Unreadable, err.Error())
		}
		return r, true, nil
	}
	defer root.Close()
	r, err = inspect(ctx, root, path)
	return r, true, err
}

// openFolder opens a folder; [fs.ErrNotExist] for anything else.
func openFolder(parent *os.Root, name string) (*os.Root, error) {
	info, err := parent.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fs.ErrNotExist
	}
	return parent.OpenRoot(name)
}

// WriteText writes one line per checkpoint, newest first.
func (l Listing) WriteText(w io.Writer) error {
	if len(l.Checkpoints) == 0 {
		_, err := fmt.Fprintf(w, "no checkpoints in %s\n", l.Dir)
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STEP\tSTATE\tSHARDS\tBYTES\tMODIFIED\tREASON")
	for _, r := range l.Checkpoints {
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%s\t%s\n", r.Step, r.State, r.Shards, r.Bytes, formatTime(r.Modified), r.Reason)
	}
	return table.Flush()
}

// WriteText writes the report for a person.
func (r Report) WriteText(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "checkpoint\t%s\n", r.Path)
	if r.Step >= 0 {
		fmt.Fprintf(table, "step\t%d\n", r.Step)
	}
	fmt.Fprintf(table, "state\t%s\n", r.State)
	if r.Reason != "" {
		fmt.Fprintf(table, "reason\t%s\n", r.Reason)
	}
	fmt.Fprintf(table, "shards\t%d\nbytes\t%d\nentries\t%d\nmodified\t%s\n", r.Shards, r.Bytes, r.Entries, formatTime(r.Modified))
	return table.Flush()
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
