package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// restartDelay is how long a daemon that died stays down before it is started
// again, as RestartSec= of a systemd unit.
const restartDelay = 300 * time.Millisecond

// process is one daemon of the demo: a child that is started again whenever it
// dies, until it is told to stay down.
type process struct {
	name string
	argv []string
	log  string // path of the file that its output is appended to

	mu       sync.Mutex
	cmd      *exec.Cmd
	wanted   bool
	starts   int
	finished chan struct{} // closed when the supervising goroutine has ended
}

// start starts the daemon and the goroutine that keeps it running. It does
// nothing for a daemon that runs.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		return nil
	}
	if err := p.spawn(); err != nil {
		return err
	}
	p.wanted = true
	p.finished = make(chan struct{})
	go p.supervise(p.cmd, p.finished)
	return nil
}

// spawn starts the child; p.mu is held.
func (p *process) spawn() error {
	if err := os.MkdirAll(filepath.Dir(p.log), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = childEnvironment()
	// No daemon outlives the demo, however the demo ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd = cmd
	p.starts++
	return nil
}

func (p *process) supervise(cmd *exec.Cmd, finished chan struct{}) {
	defer close(finished)
	for {
		_ = cmd.Wait() // how it ended is in its log
		p.mu.Lock()
		if !p.wanted {
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		time.Sleep(restartDelay)
		p.mu.Lock()
		if !p.wanted {
			p.mu.Unlock()
			return
		}
		if err := p.spawn(); err != nil {
			p.wanted = false
			p.mu.Unlock()
			return
		}
		cmd = p.cmd
		p.mu.Unlock()
	}
}

// kill sends SIGKILL; the supervisor starts the daemon again.
func (p *process) kill() error { return p.signal(syscall.SIGKILL) }

func (p *process) signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return fmt.Errorf("%s does not run", p.name)
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// stop ends the daemon with the signal and keeps it down. It returns when the
// process is gone, after SIGKILL if it did not leave within five seconds.
func (p *process) stop(s syscall.Signal) {
	p.mu.Lock()
	if !p.wanted {
		p.mu.Unlock()
		return
	}
	p.wanted = false
	finished := p.finished
	p.mu.Unlock()
	_ = p.signal(s) // a process that is gone already is what is wanted
	select {
	case <-finished:
	case <-time.After(5 * time.Second):
		_ = p.signal(syscall.SIGKILL)
		<-finished
	}
}

// pid is the process id of the running child, 0 if there is none.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil || p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// childEnvironment keeps the AWS SDK from looking for credentials or instance
// metadata anywhere but in what the demo made up.
func childEnvironment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + os.Getenv("HOME"),
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_ACCESS_KEY_ID=" + demoAccessKey,
		"AWS_SECRET_ACCESS_KEY=" + demoSecretKey,
		"AWS_REGION=" + demoRegion,
	}
}

// Made-up credentials that the local HyperPod server checks signatures with.
const (
	demoAccessKey = "AKIDEVENKEELDEMO"
	demoSecretKey = "evenkeel-demo-secret-key"
	demoRegion    = "us-west-2"
)

// waitFor calls condition every 20 ms until it holds, ctx ends, or the time is
// up.
func waitFor(ctx context.Context, limit time.Duration, what string, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := condition()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("%s did not happen within %s: %w", what, limit, err)
			}
			return fmt.Errorf("%s did not happen within %s", what, limit)
		case <-tick.C:
		}
	}
}
