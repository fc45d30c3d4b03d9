package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/remediate/checkpoint/pickle"
)

// State is what can be said about a checkpoint.
type State string

// The states. Only Whole may be resumed from.
const (
	// Whole: .metadata decodes, and every byte range that it promises is there.
	Whole State = "whole"
	// Torn: .metadata is there and a shard is missing, short, or newer than it.
	Torn State = "torn"
	// InProgress: no .metadata yet: being written, or given up.
	InProgress State = "in_progress"
	// Malformed: .metadata is damaged or hostile.
	Malformed State = "malformed"
	// Unreadable: the file system refused to answer, or .metadata is too large to
	// read; nothing is known.
	Unreadable State = "unreadable"
)

const (
	metadataFile    = ".metadata"
	metadataTmpFile = ".metadata.tmp"
	shardSuffix     = ".distcp"
)

// clockSkew is how much later than .metadata a shard may have been modified.
// .metadata is written last, but on a shared file system each node's clock may
// stamp its own files. Overwriting a checkpoint in place takes a training
// interval, minutes, so a few seconds tell the two apart.
const clockSkew = 5 * time.Second

// Report is what was found out about one checkpoint.
type Report struct {
	Path string `json:"path"`
	// Step is the training step, -1 if the folder's name does not tell.
	Step  int   `json:"step"`
	State State `json:"state"`
	// Reason says why the checkpoint is not whole; empty if it is.
	Reason string `json:"reason,omitempty"`
	// Bytes and Shards count the shards that are there.
	Bytes  int64 `json:"bytes"`
	Shards int   `json:"shards"`
	// Entries is the number of stored tensor chunks and objects.
	Entries int `json:"entries,omitempty"`
	// Modified is the latest modification of .metadata or a shard.
	Modified time.Time `json:"modified,omitzero"`
}

// Verify inspects one checkpoint folder. The error is about ctx or about a
// folder that cannot be opened; everything else is in the report.
func Verify(ctx context.Context, dir string) (Report, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Report{}, fmt.Errorf("open checkpoint: %w", err)
	}
	defer root.Close()
	return inspect(ctx, root, filepath.Clean(dir))
}

// inspect makes the report of the checkpoint in root, which is called path.
func inspect(ctx context.Context, root *os.Root, path string) (Report, error) {
	r := Report{Path: path, Step: stepOf(filepath.Base(path))}
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("verify %s: %w", path, err)
	}
	content, info, err := readMetadata(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.inspectUncommitted(root)
		return r, nil
	case errors.Is(err, errNotAFile), err != nil && leadsOut(root, metadataFile):
		r.set(Malformed, err.Error())
		return r, nil
	case err != nil:
		r.set(Unreadable, err.Error())
		return r, nil
	}
	r.Modified = info.ModTime()
	metadata, err := DecodeMetadata(content)
	if errors.Is(err, pickle.ErrLimit) {
		r.set(Unreadable, fmt.Sprintf("%s: %v", metadataFile, err))
		return r, nil
	}
	if err != nil {
		r.set(Malformed, fmt.Sprintf("%s: %v", metadataFile, err))
		return r, nil
	}
	shards, err := layout(metadata)
	if err != nil {
		r.set(Malformed, fmt.Sprintf("%s: %v", metadataFile, err))
		return r, nil
	}
	r.State, r.Entries = Whole, len(metadata.Storage)
	for _, s := range shards {
		if err := ctx.Err(); err != nil {
			return r, fmt.Errorf("verify %s: %w", path, err)
		}
		r.inspectShard(root, s, info.ModTime())
	}
	return r, nil
}

// errNotAFile is about something else than a regular file where a file of the
// checkpoint should be.
var errNotAFile = errors.New("is not a regular file")

// readMetadata reads .metadata. It is opened without waiting, as a named pipe
// would block for ever.
func readMetadata(root *os.Root) ([]byte, fs.FileInfo, error) {
	f, err := root.OpenFile(metadataFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s %w", metadataFile, errNotAFile)
	}
	if info.Size() > int64(MetadataLimits.Bytes) {
		return nil, nil, fmt.Errorf("%s %w: %d bytes, at most %d are read", metadataFile, pickle.ErrLimit, info.Size(), MetadataLimits.Bytes)
	}
	content := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := content.ReadFrom(io.LimitReader(f, int64(MetadataLimits.Bytes)+1)); err != nil {
		return nil, nil, err
	}
	return content.Bytes(), info, nil
}

// inspectUncommitted describes a checkpoint without .metadata.
func (r *Report) inspectUncommitted(root *os.Root) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		r.set(Unreadable, err.Error())
		return
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), shardSuffix) && e.Name() != metadataTmpFile {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone or renamed since: a writer is at work
		}
		if info.ModTime().After(r.Modified) {
			r.Modified = info.ModTime()
		}
		if e.Name() != metadataTmpFile {
			r.Shards++
			r.Bytes += info.Size()
		}
	}
	r.set(InProgress, fmt.Sprintf("no %s, %d shards: being written, or given up", metadataFile, r.Shards))
}

// inspectShard checks one shard against what the metadata, written at the given
// time, needs of it.
func (r *Report) inspectShard(root *os.Root, s shard, metadataTime time.Time) {
	info, err := root.Stat(s.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.set(Torn, fmt.Sprintf("shard %q is missing", s.File))
		return
	case err != nil && leadsOut(root, s.File):
		r.set(Torn, fmt.Sprintf("shard %q leads out of the checkpoint", s.File))
		return
	case err != nil:
		r.set(Unreadable, err.Error())
		return
	case !info.Mode().IsRegular():
		r.set(Torn, fmt.Sprintf("shard %q %v", s.File, errNotAFile))
		return
	}
	r.Shards++
	r.Bytes += info.Size()
	if info.ModTime().After(r.Modified) {
		r.Modified = info.ModTime()
	}
	late := info.ModTime().Sub(metadataTime)
	switch {
	case info.Size() < s.Need:
		r.set(Torn, fmt.Sprintf("shard %q has %d bytes, %d needed", s.File, info.Size(), s.Need))
	case late > clockSkew:
		r.set(Torn, fmt.Sprintf("shard %q was written %s after %s: overwritten in place (after a copy that kept no times, touch %[3]s)",
			s.File, late.Round(time.Millisecond), metadataFile))
	}
}

// leadsOut reports whether a name in root that cannot be opened is a symbolic
// link. [os.Root] follows links within the root, so it leads out, or in a circle.
func leadsOut(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// maxReason bounds Report.Reason, in bytes: names in it come from the file.
const maxReason = 400

// set records a verdict and its reason. What is unknown outweighs what is torn,
// and the first reason stands.
func (r *Report) set(state State, reason string) {
	if r.State == Unreadable || r.State == state {
		return
	}
	r.State = state
	r.Reason = strings.Map(func(c rune) rune {
		if strconv.IsPrint(c) {
			return c
		}
		return '�'
	}, reason)
	if len(r.Reason) > maxReason {
		r.Reason = strings.ToValidUTF8(r.Reason[:maxReason], "") + "…"
	}
}

// stepName is how TorchTitan names the folder of a step.
var stepName = regexp.MustCompile(`^step-([0-9]{1,15})$`)

// stepOf gives the step that a folder's name tells, or -1.
func stepOf(name string) int {
	match := stepName.FindStringSubmatch(name)
	if match == nil {
		return -1
	}
	step, err := strconv.Atoi(match[1])
	if err != nil {
		return -1
	}
	return step
}
