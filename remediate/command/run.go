package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Bounds on what a program may print, in bytes.
const (
	maxOutput = 1 << 20
	maxErrors = 4 << 10
)

// afterKill is how long the pipes of a killed program are waited for.
const afterKill = time.Second

// errTooLong says that the program printed more than an answer may hold.
var errTooLong = fmt.Errorf("output is larger than %d bytes", maxOutput)

// run runs the program with input until ctx ends and gives its output if it
// exits with status 0. The error has incident.ErrNotExecuted in its chain if
// the program was never started.
func run(ctx context.Context, c Config, input []byte) ([]byte, error) {
	output := &capped{limit: maxOutput}
	complaints := &capped{limit: maxErrors, discard: true}
	cmd := exec.CommandContext(ctx, c.Program[0], c.Program[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "EVENKEEL_ENDPOINT=" + c.Endpoint}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = output, complaints
	// A group of its own, so that whatever the program started dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return killGroup(cmd) }
	cmd.WaitDelay = afterKill
	output.full = func() { _ = killGroup(cmd) }

	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: start %s: %w", incident.ErrNotExecuted, c.Program[0], err)
	}
	err := cmd.Wait()
	switch {
	case output.overflowed:
		return nil, fmt.Errorf("%s: %w", c.Program[0], errTooLong)
	case err == nil:
		return output.content.Bytes(), nil
	case errors.Is(err, exec.ErrWaitDelay):
		_ = killGroup(cmd) // the group still has members: they hold the output
		return nil, fmt.Errorf("%s exited and left its output open", c.Program[0])
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s was killed at the deadline: %w", c.Program[0], context.Cause(ctx))
	}
	return nil, fmt.Errorf("%s: %w: %s", c.Program[0], err, clip(strings.TrimSpace(complaints.content.String())))
}

// killGroup kills the program and everything it started.
func killGroup(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

// capped keeps at most limit bytes. What is more it drops if discard is set;
// otherwise it calls full once and fails.
type capped struct {
	content    bytes.Buffer // not embedded: its ReadFrom knows no limit
	limit      int
	discard    bool
	full       func()
	overflowed bool
}

func (c *capped) Write(p []byte) (int, error) {
	room := c.limit - c.content.Len()
	if len(p) <= room {
		return c.content.Write(p)
	}
	if c.discard {
		c.content.Write(p[:room])
		return len(p), nil
	}
	if !c.overflowed {
		c.overflowed = true
		c.full()
	}
	return 0, errTooLong
}
