package incident

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// world is a cluster: nodes with agents, an orchestrator with one job, and a
// provider whose view lags. Its calls take effect and answer as the test says.
type world struct {
	mu    sync.Mutex
	start time.Time
	nodes map[string]*node
	job   *job
	// repairTime is how long a node is away for a reboot or a replacement; the
	// provider's view shows it only lag after the call.
	repairTime, lag time.Duration
	choice          Choice
	chooseErr       error
	// inspect sees each repair and each end of an isolation before it takes effect.
	inspect func(call string, n *node)
	// shown are the facts that the remediator saw last, shownBefore those before.
	shown, shownBefore map[string]NodeFacts
	shownAt            time.Time
	// answer decides about each call that changes the world, nil for done.
	answer func(call string) answer
	// readTime is how long a reading of the provider takes.
	readTime time.Duration
	// readErr makes readings of the named kind fail.
	readErr map[string]error
	// excluded is what the last resumption asked the job to be kept off.
	excluded []string
	// calls lists the calls that took effect.
	calls []string
	// replaced and rebooted count effects by instance, also of a call for an
	// instance that is being repaired already.
	replaced, rebooted map[string]int
	serial             int
}

type node struct {
	name, instance, boot string
	findings             []fault.Finding
	coverage             []fault.Coverage
	isolationKey         string
	isolated             bool
	// reporting is false for a node whose agent is silent.
	reporting bool
	noView    bool
	// busy is true while the provider is at work on the instance by itself.
	busy bool
	// repair is nil, or what is being done to the node.
	repair *repair
}

type repair struct {
	old, next    string // instance ids
	since, until time.Time
}

type job struct {
	id         string
	state      JobState
	nodes      []string
	dir        string
	checkpoint string
	self       bool
	restarts   int
	lastKey    string
}

// answer is what happens to a call.
type answer int

const (
	done        answer = iota
	refused            // no effect, and says so
	lostRequest        // no effect, and does not answer
	lostAnswer         // takes effect, and does not answer
)

var errNoAnswer = errors.New("deadline exceeded")

// newWorld has nodes n0, n1, … of which the last is an idle spare if spare is
// true, and a job on the others.
func newWorld(count int, spare bool) *world {
	w := &world{
		start:      time.Now(),
		nodes:      make(map[string]*node),
		repairTime: 2 * time.Minute,
		lag:        90 * time.Second,
		choice:     Choice{Path: "/ckpt/step_400", Step: 400, Refused: []Refusal{{Path: "/ckpt/step_500", Reason: "torn"}}},
		readErr:    make(map[string]error),
		replaced:   make(map[string]int),
		rebooted:   make(map[string]int),
		job:        &job{id: "42", state: JobRunning, dir: "/ckpt"},
	}
	for n := range count {
		name := fmt.Sprintf("n%d", n)
		w.nodes[name] = &node{
			name: name, instance: fmt.Sprintf("i-%d-0", n), boot: fmt.Sprintf("boot-%d-0", n), reporting: true,
			coverage: []fault.Coverage{{Source: "kernel", State: fault.CoverageOK}, {Source: "device", State: fault.CoverageOK}},
		}
		if !spare || n < count-1 {
			w.job.nodes = append(w.job.nodes, name)
		}
	}
	return w
}

// raise puts a confirmed finding on a node.
func (w *world) raise(name string, kind fault.Kind, change ...func(*fault.Finding)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[name]
	n.findings = append(n.findings, finding(n, kind, change...))
}

func finding(n *node, kind fault.Kind, change ...func(*fault.Finding)) fault.Finding {
	row := catalogue.Row(kind)
	now := time.Now()
	subject := fault.Subject{Node: n.name, InstanceID: n.instance, Device: fault.DeviceGPU, PCI: "0000:53:00"}
	f := fault.Finding{
		ID: fault.NewID(kind, subject, n.boot), Kind: kind, Subject: subject, State: fault.Bad,
		Severity: row.Severity, Action: row.Action, BootID: n.boot, First: now, Last: now, Count: 1,
		Evidence: []fault.Evidence{{Source: "kernel", Authority: fault.ByKernel, Time: now, BootID: n.boot}},
	}
	if own(row) {
		f.Evidence = []fault.Evidence{{Source: "remediator", Authority: fault.ByRemediator, Time: now}}
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

func provisional(f *fault.Finding) { f.Provisional = true }

var catalogue = fault.NewCatalogue(fault.DefaultTiming())

// clear ends a node's findings by evidence of a kind.
func (w *world) clear(name string, by fault.Clear) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.nodes[name].findings {
		f := &w.nodes[name].findings[k]
		f.State, f.ClearedBy = fault.OK, &fault.Evidence{Source: "device", Time: time.Now(), Clear: by}
	}
}

// do changes the world at once.
func (w *world) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// turn ends repairs that are due.
func (w *world) turn() {
	now := time.Now()
	for _, n := range w.nodes {
		if r := n.repair; r != nil && !now.Before(r.until) {
			w.serial++
			n.instance, n.boot = r.next, fmt.Sprintf("boot-%s-%d", n.name, w.serial)
			n.findings, n.repair, n.reporting = nil, nil, true
		}
	}
}

// facts is what the remediator knows now.
func (w *world) facts() Facts {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	f := Facts{Now: time.Now()}
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		fresh := n.reporting && n.repair == nil
		nf := NodeFacts{Fresh: fresh, NodeStatus: fault.NodeStatus{
			Node: name, InstanceID: n.instance, BootID: n.boot, State: fault.Unknown,
			Findings: slices.Clone(n.findings), Coverage: slices.Clone(n.coverage),
		}}
		if fresh {
			nf.State = fault.OK
		}
		for _, b := range n.findings {
			if b.State == fault.Bad && !b.Provisional && b.Severity.Rank() >= fault.Error.Rank() {
				nf.State = fault.Bad
			}
		}
		if !n.noView {
			nf.View = new(w.view(n))
		}
		f.Nodes = append(f.Nodes, nf)
	}
	w.shown, w.shownBefore, w.shownAt = make(map[string]NodeFacts), w.shown, f.Now
	for _, nf := range f.Nodes {
		w.shown[nf.Node] = nf
	}
	return f
}

func (w *world) view(n *node) NodeView {
	v := NodeView{Node: n.name, Responding: RespondingYes, Isolated: n.isolated, IsolationKey: n.isolationKey}
	if n.repair != nil || !n.reporting {
		v.Responding = RespondingNo
	}
	busy := w.job.state == JobRunning && slices.Contains(w.job.nodes, n.name)
	if busy {
		v.Job = w.job.id
	}
	v.Idle = !busy && !n.isolated && v.Responding == RespondingYes && !slices.Contains(w.job.nodes, n.name)
	return v
}

// call applies a changing call as the test's answer says.
func (w *world) call(ctx context.Context, name string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	a := done
	if w.answer != nil {
		a = w.answer(name)
	}
	switch a {
	case refused:
		return fmt.Errorf("%s: throttled: %w", name, ErrNotExecuted)
	case lostRequest:
		return fmt.Errorf("%s: %w", name, errNoAnswer)
	}
	if err := effect(); err != nil {
		return err
	}
	w.calls = append(w.calls, name)
	if a == lostAnswer {
		return fmt.Errorf("%s: %w", name, errNoAnswer)
	}
	return nil
}

func (w *world) see(call string, n *node) {
	if w.inspect != nil {
		w.inspect(call, n)
	}
}

func (w *world) Isolate(ctx context.Context, i Isolation) error {
	return w.call(ctx, "isolate "+i.Node, func() error {
		n := w.nodes[i.Node]
		if !n.isolated {
			n.isolated, n.isolationKey = true, i.Key
		}
		return nil
	})
}

func (w *world) Unisolate(ctx context.Context, i Isolation) error {
	return w.call(ctx, "unisolate "+i.Node, func() error {
		if n := w.nodes[i.Node]; n.isolationKey == i.Key {
			w.see("unisolate", n)
			n.isolated, n.isolationKey = false, ""
		}
		return nil
	})
}

func (w *world) Stop(ctx context.Context, s Stoppage) error {
	return w.call(ctx, "stop "+s.Job, func() error {
		if w.job.lastKey != s.Key {
			w.job.state, w.job.lastKey = JobStopped, s.Key
		}
		return nil
	})
}

func (w *world) Resume(ctx context.Context, r Resumption) error {
	return w.call(ctx, "resume "+r.Job+" from "+r.Checkpoint, func() error {
		w.excluded = r.Exclude
		if w.job.lastKey == r.Key {
			return nil
		}
		w.job.state, w.job.lastKey, w.job.checkpoint = JobRunning, r.Key, r.Checkpoint
		w.job.restarts++
		want := len(w.job.nodes)
		w.job.nodes = nil
		for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
			if len(w.job.nodes) < want && !slices.Contains(r.Exclude, name) && !w.nodes[name].isolated {
				w.job.nodes = append(w.job.nodes, name)
			}
		}
		return nil
	})
}

// find gives the node that an instance id stands for, or stood for.
func (w *world) find(instance string) *node {
	for _, n := range w.nodes {
		if n.instance == instance {
			return n
		}
	}
	return nil
}

func (w *world) Replace(ctx context.Context, c MachineCall) error {
	return w.call(ctx, "replace "+c.InstanceID, func() error {
		n := w.find(c.InstanceID)
		if n == nil {
			return fmt.Errorf("InstanceIdNotFound: %w", ErrNotExecuted)
		}
		w.see("replace", n)
		w.replaced[c.InstanceID]++
		w.serial++
		w.repairNode(n, fmt.Sprintf("i-%s-%d", n.name, w.serial))
		return nil
	})
}

func (w *world) Reboot(ctx context.Context, c MachineCall) error {
	return w.call(ctx, "reboot "+c.InstanceID, func() error {
		n := w.find(c.InstanceID)
		if n == nil {
			return fmt.Errorf("InstanceIdNotFound: %w", ErrNotExecuted)
		}
		w.see("reboot", n)
		w.rebooted[n.boot]++
		w.repairNode(n, n.instance)
		return nil
	})
}

func (w *world) repairNode(n *node, next string) {
	now := time.Now()
	n.repair = &repair{old: n.instance, next: next, since: now, until: now.Add(w.repairTime)}
}

// machine is the provider's lagging view.
func (w *world) machine(n *node) Machine {
	m := Machine{InstanceID: n.instance, Node: n.name, Status: "Running", Running: true}
	if n.busy {
		m.Status, m.Running, m.Busy = "SystemUpdating", false, true
	}
	if r := n.repair; r != nil && time.Since(r.since) >= w.lag {
		m.Status, m.Running = "Pending", false
	}
	return m
}

func (w *world) Instance(ctx context.Context, id string) (Machine, error) {
	time.Sleep(w.readTime)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	if err := w.readErr["instance"]; err != nil {
		return Machine{}, err
	}
	if n := w.find(id); n != nil {
		return w.machine(n), nil
	}
	return Machine{}, ErrNotFound
}

func (w *world) AtNode(ctx context.Context, name string) (Machine, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn()
	if err := w.readErr["at_node"]; err != nil {
		return Machine{}, err
	}
	n := w.nodes[name]
	if n == nil {
		return Machine{}, ErrNotFound
	}
	return w.machine(n), nil
}

func (w *world) View(ctx context.Context, name string) (NodeView, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.readErr["view"]; err != nil {
		return NodeView{}, err
	}
	n := w.nodes[name]
	if n == nil {
		return NodeView{}, ErrNotFound
	}
	return w.view(n), nil
}

func (w *world) Views(ctx context.Context) ([]NodeView, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var views []NodeView
	for _, n := range w.nodes {
		views = append(views, w.view(n))
	}
	return views, nil
}

func (w *world) Job(ctx context.Context, id string) (JobView, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.readErr["job"]; err != nil {
		return JobView{}, err
	}
	if id != w.job.id {
		return JobView{}, ErrNotFound
	}
	return JobView{
		Job: id, State: w.job.state, Nodes: slices.Clone(w.job.nodes), CheckpointDir: w.job.dir,
		SelfResuming: w.job.self, Restarts: w.job.restarts, LastKey: w.job.lastKey,
	}, nil
}

func (w *world) Choose(ctx context.Context, dir string) (Choice, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.choice, w.chooseErr
}
