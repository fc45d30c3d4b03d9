package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/internal/sim/pki"
	"github.com/evenkeel/evenkeel/internal/sim/scheduler"
	"github.com/evenkeel/evenkeel/internal/sim/trainer"
)

const (
	checkpointEvery = 10 // steps
	stepsPerSecond  = 10
	// tornStep is the checkpoint of scene a that is not whole.
	tornStep = 30
)

// training launches the job's trainer process for the scheduler.
type training struct {
	dir, bin     string
	collectorURL string
	client       pki.Pair
	ca           string
	checkpoints  string
	lossLog      string
	causes       string
	tearAt       int
	machines     map[string]*machine
	tell         func(actor, format string, args ...any)
	stallTheJob  func() error
	mu           sync.Mutex
	launches     int
	launched     time.Time
	tornSeen     int
	trouble      string // told last
}

func (c *cluster) startScheduler(context.Context) error {
	client, err := c.authority.Client("engine")
	if err != nil {
		return err
	}
	c.training = &training{
		dir: c.dir, bin: c.bin, collectorURL: c.urls.collector, client: client, ca: c.authority.CAFile(),
		checkpoints: c.checkpoints, lossLog: filepath.Join(c.dir, "losses.jsonl"), causes: filepath.Join(c.dir, "causes.json"),
		tearAt: tornStep, machines: c.machines, tell: c.tell,
	}
	o := scheduler.Options{Job: scheduler.Job{ID: jobName, Width: jobNodes, CheckpointDir: c.checkpoints}, Launcher: c.training}
	for _, name := range nodeNames {
		instance, boot := c.machines[name].ids()
		o.Nodes = append(o.Nodes, scheduler.Node{Name: name, InstanceID: instance, BootID: boot})
	}
	if c.scheduler, err = scheduler.New(o); err != nil {
		return err
	}
	c.training.stallTheJob = c.scheduler.Stall
	c.later(func() { _ = c.scheduler.Close() })
	if c.urls.scheduler, err = c.serve(c.scheduler.Handler()); err != nil {
		return err
	}
	return c.scheduler.Submit()
}

// nodeIsUp tells the scheduler which instance now stands behind the name.
func (c *cluster) nodeIsUp(node string) {
	instance, boot := c.machines[node].ids()
	if err := errors.Join(c.scheduler.SetIdentity(node, instance, boot), c.scheduler.SetDown(node, false)); err != nil {
		c.tell("demo", "%s: %v", node, err)
	}
}

// nodeIsDown is what the scheduler finds out when a node's daemon is dead.
func (c *cluster) nodeIsDown(node string) error {
	c.tell("scheduler", "%s does not respond: down", node)
	return c.scheduler.SetDown(node, true)
}

// isSpare holds if the node is back in scheduling, idle, and the job runs elsewhere.
func (c *cluster) isSpare(node string) error {
	if job := c.scheduler.Job(); job.State != "running" {
		return fmt.Errorf("the job is %s, want it running", job.State)
	}
	for _, n := range c.scheduler.Nodes() {
		if n.Node == node {
			if !n.Idle || n.Isolated {
				return fmt.Errorf("%s is idle: %t, isolated: %t; want it to be the new spare", node, n.Idle, n.Isolated)
			}
			c.tell("check", "the job runs on %v, and %s is the new spare", c.scheduler.Job().Nodes, node)
			return nil
		}
	}
	return fmt.Errorf("the scheduler does not know %s", node)
}

// config is the trainer's configuration on the given nodes; without nodes that
// of a reference run, which computes the same wherever it runs.
func (t *training) config(nodes []string, resume string) trainer.Config {
	c := trainer.Config{
		Job: jobName, Seed: 7, StepsPerSecond: stepsPerSecond, Resume: resume,
		CheckpointDir: t.checkpoints, CheckpointEvery: checkpointEvery, TearAt: t.tearAt,
		LossLog: t.lossLog, CausesPath: t.causes,
		ExpertLoad: trainer.ExpertLoad{
			WindowSeconds: 1, Cluster: clusterName, Model: modelName, Replica: "r0", URL: t.collectorURL + "/v1/expert-load",
			CertFile: t.client.CertFile, KeyFile: t.client.KeyFile, CAFile: t.ca,
		},
	}
	if resume != "" {
		c.TearAt = 0
	}
	for _, node := range nodes {
		for _, uuid := range t.machines[node].gpuUUIDs() {
			c.Ranks = append(c.Ranks, trainer.Rank{Node: node, DeviceUUID: uuid})
		}
	}
	if len(nodes) == 0 {
		c.Ranks = make([]trainer.Rank, jobNodes*gpusPerNode)
	}
	return c
}

// Start implements scheduler.Launcher.
func (t *training) Start(l scheduler.Launch) (scheduler.Process, error) {
	for name, m := range t.machines {
		first, job := -1, ""
		for i, node := range l.Nodes {
			if node == name {
				first, job = i*gpusPerNode, jobName
			}
		}
		if err := m.place(job, first); err != nil {
			return nil, err
		}
	}
	content, err := json.Marshal(t.config(l.Nodes, l.Checkpoint))
	if err != nil {
		return nil, fmt.Errorf("encode the trainer's configuration: %w", err)
	}
	configFile := filepath.Join(t.dir, fmt.Sprintf("trainer-%d.json", l.Restart))
	if err := os.WriteFile(configFile, content, 0o644); err != nil {
		return nil, fmt.Errorf("write the trainer's configuration: %w", err)
	}
	p := &trainerProcess{cmd: exec.Command(filepath.Join(t.bin, "evenkeel"), "simulate", "trainer", "--config", configFile), done: make(chan struct{})}
	p.cmd.Env = childEnvironment()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	events, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the trainer: %w", err)
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the trainer: %w", err)
	}
	t.mu.Lock()
	t.launches++
	t.launched = time.Now()
	t.mu.Unlock()
	from := "its beginning"
	if l.Checkpoint != "" {
		from = lastElements(l.Checkpoint)
	}
	t.tell("scheduler", "job %s starts on %v from %s", l.Job, l.Nodes, from)
	go p.follow(events, t.event)
	return p, nil
}

// event takes one line of what the trainer says about itself.
func (t *training) event(e trainer.Event) {
	switch {
	case e.Event == "error":
		t.troubled(e.Detail)
	case e.Event == "checkpoint" && e.Step == t.tearAt && e.Detail != "":
		t.mu.Lock()
		t.tornSeen = e.Step
		t.mu.Unlock()
	}
}

// troubled tells what hinders the trainer, each trouble once.
func (t *training) troubled(detail string) {
	t.mu.Lock()
	again := detail == t.trouble
	t.trouble = detail
	t.mu.Unlock()
	if !again {
		t.tell("trainer", "%s", detail)
	}
}

// torn is the step of the checkpoint that was torn, 0 before it.
func (t *training) torn() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tornSeen
}

// starts is how often the job was started, lastStart when it was last.
func (t *training) starts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.launches
}

func (t *training) lastStart() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.launched
}

// hang makes the job wait in a collective whose peer is gone.
func (t *training) hang() error {
	if err := t.stallTheJob(); err != nil {
		return err
	}
	t.tell("trainer", "every other rank waits in a collective for the one that is gone")
	return nil
}

// experts is the number of experts per layer: one per rank.
func (t *training) experts() int { return jobNodes * gpusPerNode }

func (t *training) causeHot(expert int) error {
	return t.cause(trainer.Causes{Hot: &trainer.Hot{Layer: -1, Expert: expert, Share: 0.6}})
}

func (t *training) causeNothing() error { return t.cause(trainer.Causes{}) }

func (t *training) cause(c trainer.Causes) error {
	content, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode causes: %w", err)
	}
	if err := os.WriteFile(t.causes+".tmp", content, 0o644); err != nil {
		return fmt.Errorf("write causes: %w", err)
	}
	if err := os.Rename(t.causes+".tmp", t.causes); err != nil {
		return fmt.Errorf("write causes: %w", err)
	}
	return nil
}

// trainerProcess is the job's process, all ranks in one.
type trainerProcess struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

func (p *trainerProcess) follow(events io.Reader, take func(trainer.Event)) {
	lines := bufio.NewScanner(events)
	for lines.Scan() {
		var e trainer.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			take(e)
		}
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// Stall stops the process in its tracks: it holds its memory and its sockets and
// computes nothing, as ranks do that wait in a collective.
func (p *trainerProcess) Stall() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Kill implements scheduler.Process; it works on a stopped process too.
func (p *trainerProcess) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the trainer: %w", err)
	}
	<-p.done
	return nil
}

// Done implements scheduler.Process.
func (p *trainerProcess) Done() <-chan struct{} { return p.done }

// Err implements scheduler.Process.
func (p *trainerProcess) Err() error { return p.err }
