// Package demo runs the whole of Evenkeel on one machine: the real daemons as
// child processes, with the shipped rules and the shipped policy hands-off,
// against a simulated cluster on loopback.
//
// It decides what goes wrong and when, and checks what follows from it. It
// refuses to help: whatever the daemons see, decide and do, they do through the
// same files, sockets and programs as on a real cluster. Durations are divided by
// one factor, which is printed.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Options is what the command line says.
type Options struct {
	Stdout io.Writer
	// Once ends the demo after the last scene.
	Once bool
	// Dir is where the demo's files go and stay; empty for a temporary folder.
	Dir string
	// Bin is the folder of the daemons' binaries; empty for that of this program.
	Bin string
	// Scenes are the ids of the scenes to play; empty for all.
	Scenes []string
	// Up and Played, if set, are called before the first scene and after the last
	// one, while everything runs. They are how tests make trouble and look around.
	Up, Played func(context.Context, Cluster)
}

// Cluster is what a test can do with the running demo.
type Cluster interface {
	// Kill sends SIGKILL to a daemon: "remediator", "collector" or the name of a
	// node, for its agent. It is started again, as by a service manager.
	Kill(daemon string) error
	// LoseAnswer makes the next replacement succeed with its answer lost.
	LoseAnswer()
	// StoreURL is the address of the metric store.
	StoreURL() string
	// PIDs gives the process ids of the daemons by their names.
	PIDs() map[string]int
}

// ErrSceneFailed is returned after the failure was printed.
var ErrSceneFailed = errors.New("a scene went wrong")

// Run plays the scenes.
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	if err := o.fillDefaults(); err != nil {
		return err
	}
	dir := o.Dir
	if dir == "" {
		temporary, err := os.MkdirTemp("", "evenkeel-demo-")
		if err != nil {
			return fmt.Errorf("make the demo's folder: %w", err)
		}
		defer os.RemoveAll(temporary)
		dir = temporary
	}
	t := newTimeline(o.Stdout)
	t.text("Evenkeel on one machine. Policy hands-off and alert rules as shipped, their durations divided by %d; files in %s", speed, dir)
	t.text("HyperPod here: a replacement takes %s (20 to 30 min there), its view lags by %s. Agents read twice a second and report every second.\n", replaceTakes, viewLag)

	c, err := start(ctx, o, dir, t.line)
	if err != nil {
		return err
	}
	defer c.close()
	if o.Up != nil {
		o.Up(ctx, c)
	}
	failed := play(ctx, c, o, t)
	if o.Played != nil {
		o.Played(ctx, c)
	}
	if ctx.Err() != nil {
		return nil
	}
	if failed {
		t.text("\nA scene went wrong. The daemons' logs are in %s", filepath.Join(dir, "logs"))
	} else {
		t.text("\nAll scenes went right, in %s.", time.Since(began).Round(100*time.Millisecond))
	}
	if !o.Once {
		t.text("\n%s", c.whereToLook())
		<-ctx.Done()
	}
	if failed {
		return ErrSceneFailed
	}
	return nil
}

// play plays the chosen scenes in order and reports whether one went wrong.
func play(ctx context.Context, c *cluster, o Options, t *timeline) (failed bool) {
	for _, s := range scenes {
		if len(o.Scenes) > 0 && !slices.Contains(o.Scenes, s.id) {
			continue
		}
		t.heading("Scene %s: %s", s.id, s.title)
		began := time.Now()
		err := s.play(ctx, c)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			t.line("check", "scene %s went WRONG: %v", s.id, err)
			return true // the next scene needs the cluster as this one leaves it
		}
		t.line("check", "scene %s went right, in %s", s.id, time.Since(began).Round(100*time.Millisecond))
	}
	return false
}

func (o *Options) fillDefaults() error {
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the daemons' binaries: %w", err)
		}
		o.Bin = filepath.Dir(self)
	}
	for _, name := range []string{"evenkeel", "evenkeel-agent", "evenkeel-collector", "evenkeel-remediator"} {
		if _, err := os.Stat(filepath.Join(o.Bin, name)); err != nil {
			return fmt.Errorf("the demo needs %s in %s (make build): %w", name, o.Bin, err)
		}
	}
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			return fmt.Errorf("--dir: %w", err)
		}
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return fmt.Errorf("--dir: %s is not empty", dir)
		}
		o.Dir = dir
	}
	return nil
}

// whereToLook lists what can be inspected while the demo stays up.
func (c *cluster) whereToLook() string {
	tls := filepath.Dir(c.authority.CAFile())
	curl := fmt.Sprintf("curl -s --cacert %s --cert %s --key %s", c.authority.CAFile(), filepath.Join(tls, "operator.client.crt"), filepath.Join(tls, "operator.client.key"))
	return fmt.Sprintf(`Everything stays up until Ctrl-C. To look at it:
  incidents      %s %s/v1/incidents
  nodes          %s %s/v1/nodes
  who is busy    %s %s/v1/replicas
  metrics        curl -s %s/metrics (an agent's; the others': curl -sk %s/metrics, %s/metrics)
  PromQL         curl -s '%s/api/v1/query?query=evenkeel_agent_findings'
  alerts         curl -s %s/api/v2/alerts
  engine         curl -s %s/metrics
  checkpoints    %s checkpoint list %s
  logs           %s`,
		curl, c.urls.remediator, curl, c.urls.remediator, curl, c.urls.collector,
		c.urls.agents[nodeNames[0]], c.urls.remediator, c.urls.collector,
		c.urls.store, c.urls.alertmanager, c.urls.engine,
		filepath.Join(c.bin, "evenkeel"), c.checkpoints, filepath.Join(c.dir, "logs"))
}
