// Package scheduler is the scheduler of the simulated cluster: a few nodes, one
// job that takes several of them, and an HTTP API that a small client program
// speaks to, as an operator's own program would to a real scheduler.
//
// It behaves as schedulers do where that matters to a remediator. A node that
// is isolated gets no new work but keeps what it has. An isolation belongs to
// whoever placed it. A job whose node dies goes on "running" while its
// collective hangs. A resumed job waits until there are nodes for it. Stop and
// resume take effect once per key, however often they are repeated.
package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Node is one node as the cluster's owner set it up. Nodes beyond what the job
// takes are spares.
type Node struct {
	Name, InstanceID, BootID string
}

// Job is the one job of the cluster.
type Job struct {
	ID string
	// Width is how many nodes it takes.
	Width         int
	CheckpointDir string
}

// Launch asks for the job's processes to be started.
type Launch struct {
	Job string
	// Nodes are in the order of the job's ranks.
	Nodes []string
	// Checkpoint to go on from, empty to begin anew.
	Checkpoint string
	// Restart is 0 for the first start.
	Restart int
}

// Launcher starts the job's processes.
type Launcher interface {
	Start(Launch) (Process, error)
}

// Process is a started job.
type Process interface {
	// Stall makes the job do nothing from now on, as ranks do that wait for one
	// that died.
	Stall() error
	// Kill ends the job, stalled or not, and returns when it is gone.
	Kill() error
	// Done is closed when the job is gone; Err then says why, nil if it had
	// reached its end.
	Done() <-chan struct{}
	Err() error
}

// Options make up the cluster.
type Options struct {
	Nodes    []Node
	Job      Job
	Launcher Launcher
}

// Scheduler is safe for use by several goroutines. The launcher and its
// processes are called with the scheduler locked and must not call back.
type Scheduler struct {
	launcher Launcher

	mu    sync.Mutex
	nodes []*node // in the order of Options.Nodes
	job   job
}

type node struct {
	Node
	down      bool
	isolation *isolation // nil for none
	job       string     // that holds the node, empty for none
}

// isolation of a node; without key it is a human's.
type isolation struct{ key, reason string }

// The states of a job, in the words of the protocol.
const (
	running = "running"
	pending = "pending"
	stopped = "stopped"
	ended   = "ended"
)

type job struct {
	Job
	state    string
	nodes    []string // that hold it; after a stop, those that held it last
	process  Process  // of a running job
	starts   int
	waiting  resumption      // of a pending job
	applied  map[string]bool // operation and key of every stop and resume that took effect
	lastKey  string
	lastWord string // why the job ended, or could not start
}

type resumption struct {
	checkpoint string
	exclude    []string
}

// New sets the cluster up. The job is pending until Submit.
func New(o Options) (*Scheduler, error) {
	if o.Launcher == nil {
		return nil, errors.New("launcher: missing")
	}
	if o.Job.ID == "" || o.Job.Width < 1 || o.Job.Width > len(o.Nodes) {
		return nil, fmt.Errorf("job: needs an id and from 1 to %d nodes, got %q and %d", len(o.Nodes), o.Job.ID, o.Job.Width)
	}
	s := &Scheduler{launcher: o.Launcher, job: job{Job: o.Job, state: stopped, applied: make(map[string]bool)}}
	for i, n := range o.Nodes {
		if n.Name == "" || s.find(n.Name) != nil {
			return nil, fmt.Errorf("nodes[%d]: name %q is empty or taken", i, n.Name)
		}
		s.nodes = append(s.nodes, &node{Node: n})
	}
	return s, nil
}

// Submit starts the job for the first time, on the first nodes that are idle.
func (s *Scheduler) Submit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job.state != stopped || s.job.starts > 0 {
		return fmt.Errorf("job %s was submitted already", s.job.ID)
	}
	s.job.state = pending
	return s.schedule()
}

// Close kills the job if it runs. It does not come back.
func (s *Scheduler) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.job.state = ended
	s.free()
	if s.job.process == nil {
		return nil
	}
	process := s.job.process
	s.job.process = nil
	return process.Kill()
}

// SetDown says whether a node's daemon is dead. A running job stalls when one
// of its nodes dies, and stays stalled when the node comes back.
func (s *Scheduler) SetDown(name string, down bool) error {
	return s.change(name, func(n *node) error {
		n.down = down
		if down {
			return s.stallOn(n)
		}
		return nil
	})
}

// SetIdentity says which instance stands behind a node's name and which boot it
// is in. What ran on the node before is gone, so a running job stalls.
func (s *Scheduler) SetIdentity(name, instanceID, bootID string) error {
	return s.change(name, func(n *node) error {
		if n.InstanceID == instanceID && n.BootID == bootID {
			return nil
		}
		n.InstanceID, n.BootID = instanceID, bootID
		return s.stallOn(n)
	})
}

// IsolateByHand takes a node out of scheduling as a human does: without a key.
func (s *Scheduler) IsolateByHand(name, reason string) error {
	return s.change(name, func(n *node) error {
		n.isolation = &isolation{reason: reason}
		return nil
	})
}

// UnisolateByHand puts a node back whoever isolated it.
func (s *Scheduler) UnisolateByHand(name string) error {
	return s.change(name, func(n *node) error {
		n.isolation = nil
		return nil
	})
}

// Stall makes the running job do nothing, as when a GPU of it dies.
func (s *Scheduler) Stall() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job.process == nil {
		return fmt.Errorf("job %s does not run", s.job.ID)
	}
	return s.job.process.Stall()
}

// change changes a node and gives a waiting job the chance that may lie in it.
func (s *Scheduler) change(name string, f func(*node) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.find(name)
	if n == nil {
		return fmt.Errorf("node %q: %w", name, errNotFound)
	}
	if err := f(n); err != nil {
		return err
	}
	if err := s.schedule(); err != nil {
		s.job.lastWord = err.Error() // the job's trouble, not that of the change
	}
	return nil
}

func (s *Scheduler) find(name string) *node {
	for _, n := range s.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (s *Scheduler) stallOn(n *node) error {
	if n.job == "" || s.job.process == nil {
		return nil
	}
	return s.job.process.Stall()
}

func (n *node) idle() bool { return !n.down && n.isolation == nil && n.job == "" }

// schedule starts the job if it is pending and there are nodes for it.
func (s *Scheduler) schedule() error {
	if s.job.state != pending {
		return nil
	}
	nodes := s.pick()
	if nodes == nil {
		return nil
	}
	process, err := s.launcher.Start(Launch{Job: s.job.ID, Nodes: nodes, Checkpoint: s.job.waiting.checkpoint, Restart: s.job.starts})
	if err != nil {
		s.job.state = stopped
		return fmt.Errorf("start job %s: %w", s.job.ID, err)
	}
	for _, name := range nodes {
		s.find(name).job = s.job.ID
	}
	s.job.state, s.job.nodes, s.job.process, s.job.waiting, s.job.lastWord = running, nodes, process, resumption{}, ""
	s.job.starts++
	go s.await(process)
	return nil
}

// pick chooses the job's nodes; nil if there are too few. Each node that the job
// had keeps its place if it can, the first idle others take the places left.
func (s *Scheduler) pick() []string {
	usable := func(name string) bool {
		n := s.find(name)
		return n != nil && n.idle() && !slices.Contains(s.job.waiting.exclude, name)
	}
	nodes := make([]string, s.job.Width)
	for i, name := range s.job.nodes {
		if usable(name) {
			nodes[i] = name
		}
	}
	for _, n := range s.nodes {
		if !usable(n.Name) || slices.Contains(nodes, n.Name) {
			continue
		}
		if i := slices.Index(nodes, ""); i >= 0 {
			nodes[i] = n.Name
		}
	}
	if slices.Contains(nodes, "") {
		return nil
	}
	return nodes
}

// await notes the end of a job that ended by itself.
func (s *Scheduler) await(process Process) {
	<-process.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job.process != process {
		return // stopped, and perhaps started again
	}
	s.job.state, s.job.process, s.job.lastWord = ended, nil, "reached its end"
	if err := process.Err(); err != nil {
		s.job.lastWord = err.Error()
	}
	s.free()
}

// free takes the job off its nodes.
func (s *Scheduler) free() {
	for _, n := range s.nodes {
		n.job = ""
	}
}
