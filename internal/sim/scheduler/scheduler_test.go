package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// launcher notes what it is asked to do.
type launcher struct {
	mu      sync.Mutex
	log     []string
	current *process
	fail    error
}

func (l *launcher) Start(c Launch) (Process, error) {
	if l.fail != nil {
		return nil, l.fail
	}
	l.note("start %d on %s from %q", c.Restart, strings.Join(c.Nodes, ","), c.Checkpoint)
	l.current = &process{launcher: l, done: make(chan struct{})}
	return l.current, nil
}

func (l *launcher) note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log = append(l.log, fmt.Sprintf(format, args...))
}

// expect compares what was noted since the last time.
func (l *launcher) expect(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(want, l.log); diff != "" {
		t.Errorf("launcher was asked (-want +got):\n%s", diff)
	}
	l.log = nil
}

type process struct {
	launcher *launcher
	done     chan struct{}
	err      error
}

func (p *process) Stall() error { p.launcher.note("stall"); return nil }

func (p *process) Kill() error {
	p.launcher.note("kill")
	close(p.done)
	return nil
}

func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Err() error            { return p.err }

// cluster has nodes a to e and a spare s, and a submitted job on a to e.
func cluster(t *testing.T) (*Scheduler, *launcher) {
	t.Helper()
	l := &launcher{}
	o := Options{Job: Job{ID: "42", Width: 5, CheckpointDir: "/checkpoints"}, Launcher: l}
	for _, name := range []string{"a", "b", "c", "d", "e", "s"} {
		o.Nodes = append(o.Nodes, Node{Name: name, InstanceID: "i-" + name, BootID: "boot-" + name})
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Submit(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	l.expect(t, `start 0 on a,b,c,d,e from ""`)
	return s, l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, errRefused) {
		t.Errorf("error = %v, want %v", err, errRefused)
	}
}

func expectJob(t *testing.T, s *Scheduler, want JobView) {
	t.Helper()
	want.Job, want.CheckpointDir = "42", "/checkpoints"
	if diff := cmp.Diff(want, s.Job()); diff != "" {
		t.Errorf("job (-want +got):\n%s", diff)
	}
}

// idle names the nodes that could take work.
func idle(s *Scheduler) string {
	var names []string
	for _, v := range s.Nodes() {
		if v.Idle {
			names = append(names, v.Node)
		}
	}
	return strings.Join(names, ",")
}

func TestJobMovesToTheSpare(t *testing.T) {
	s, l := cluster(t)
	expectJob(t, s, JobView{State: "running", Nodes: []string{"a", "b", "c", "d", "e"}})
	must(t, s.isolate("b", "inc-1", "GPU has fallen off the bus"))
	l.expect(t) // what runs on the node goes on
	must(t, s.stop("42", "k1"))
	l.expect(t, "kill")
	expectJob(t, s, JobView{State: "stopped", Nodes: []string{}, LastKey: "k1"})
	must(t, s.resume("42", "k2", "/checkpoints/step-10", []string{"b"}))
	l.expect(t, `start 1 on a,s,c,d,e from "/checkpoints/step-10"`)
	expectJob(t, s, JobView{State: "running", Nodes: []string{"a", "s", "c", "d", "e"}, Restarts: 1, LastKey: "k2"})
	must(t, s.unisolate("b", "inc-1"))
	if got := idle(s); got != "b" {
		t.Errorf("idle nodes = %s, want b", got)
	}
}

func TestStopAndResumeOncePerKey(t *testing.T) {
	s, l := cluster(t)
	must(t, s.stop("42", "k"))
	must(t, s.stop("42", "k"))
	must(t, s.resume("42", "k", "c", nil))
	must(t, s.resume("42", "k", "c", nil))
	l.expect(t, "kill", `start 1 on a,b,c,d,e from "c"`)
	must(t, s.stop("42", "k")) // comes late, after the resume
	l.expect(t)
	expectJob(t, s, JobView{State: "running", Nodes: []string{"a", "b", "c", "d", "e"}, Restarts: 1, LastKey: "k"})
	must(t, s.stop("42", "k3"))
	l.expect(t, "kill")
}

func TestRefusals(t *testing.T) {
	s, l := cluster(t)
	refused(t, s.resume("42", "k", "", nil)) // it runs
	refused(t, s.stop("42", ""))
	refused(t, s.isolate("a", "", "no key"))
	refused(t, s.unisolate("a", ""))
	for _, err := range []error{s.stop("43", "k"), s.resume("43", "k", "", nil), s.isolate("x", "k", ""), s.unisolate("x", "k"), s.SetDown("x", true)} {
		if !errors.Is(err, errNotFound) {
			t.Errorf("error = %v, want %v", err, errNotFound)
		}
	}
	l.expect(t)
}

func TestIsolationBelongsToItsKey(t *testing.T) {
	s, _ := cluster(t)
	must(t, s.isolate("a", "k1", "first"))
	must(t, s.isolate("a", "k1", "repeated"))
	refused(t, s.isolate("a", "k2", "another"))
	refused(t, s.unisolate("a", "k2"))
	want := NodeView{Node: "a", Responding: "yes", Isolated: true, IsolationKey: "k1", Reason: "first", InstanceID: "i-a", BootID: "boot-a", Job: "42"}
	if diff := cmp.Diff(want, s.Nodes()[0]); diff != "" {
		t.Errorf("node a (-want +got):\n%s", diff)
	}
	must(t, s.unisolate("a", "k1"))
	must(t, s.unisolate("a", "k1"))

	must(t, s.IsolateByHand("s", "cabling"))
	refused(t, s.isolate("s", "k1", "fault"))
	refused(t, s.unisolate("s", "k1"))
	if v := s.Nodes()[5]; !v.Isolated || v.IsolationKey != "" || v.Reason != "cabling" || v.Idle {
		t.Errorf("node s = %+v, want isolated by hand", v)
	}
	must(t, s.UnisolateByHand("s"))
	if got := idle(s); got != "s" {
		t.Errorf("idle nodes = %s, want s", got)
	}
}

func TestDeadNodeStallsItsJob(t *testing.T) {
	s, l := cluster(t)
	must(t, s.SetDown("s", true)) // not the job's
	l.expect(t)
	must(t, s.SetDown("c", true))
	l.expect(t, "stall")
	expectJob(t, s, JobView{State: "running", Nodes: []string{"a", "b", "c", "d", "e"}})
	if v := s.Nodes()[2]; v.Responding != "no" || v.Idle {
		t.Errorf("node c = %+v, want it not to respond", v)
	}
	must(t, s.SetIdentity("c", "i-c", "boot-c")) // as it was
	l.expect(t)
	must(t, s.SetIdentity("c", "i-new", "boot-new"))
	must(t, s.SetDown("c", false))
	l.expect(t, "stall")
	if v := s.Nodes()[2]; v.Responding != "yes" || v.InstanceID != "i-new" || v.BootID != "boot-new" {
		t.Errorf("node c = %+v, want the new instance to respond", v)
	}
}

func TestResumedJobWaitsForNodes(t *testing.T) {
	s, l := cluster(t)
	must(t, s.SetDown("a", true))
	must(t, s.isolate("b", "k", "fault"))
	must(t, s.stop("42", "k1"))
	must(t, s.resume("42", "k2", "c", []string{"b"}))
	l.expect(t, "stall", "kill")
	expectJob(t, s, JobView{State: "pending", Nodes: []string{}, LastKey: "k2"})
	must(t, s.unisolate("b", "k")) // still excluded
	expectJob(t, s, JobView{State: "pending", Nodes: []string{}, LastKey: "k2"})
	refused(t, s.resume("42", "k3", "c", nil))
	must(t, s.SetDown("a", false))
	l.expect(t, `start 1 on a,s,c,d,e from "c"`)
}

func TestStoppedWhilePending(t *testing.T) {
	s, l := cluster(t)
	must(t, s.stop("42", "k1"))
	must(t, s.SetDown("a", true))
	must(t, s.SetDown("b", true))
	must(t, s.resume("42", "k2", "c", nil))
	must(t, s.stop("42", "k3"))
	must(t, s.SetDown("a", false))
	l.expect(t, "kill")
	expectJob(t, s, JobView{State: "stopped", Nodes: []string{}, LastKey: "k3"})
}

func TestLaunchFails(t *testing.T) {
	s, l := cluster(t)
	must(t, s.stop("42", "k1"))
	l.fail = errors.New("no such program")
	if err := s.resume("42", "k2", "c", nil); err == nil || errors.Is(err, errRefused) {
		t.Errorf("resume with a launcher that fails: error = %v, want one", err)
	}
	expectJob(t, s, JobView{State: "stopped", Nodes: []string{}, LastKey: "k1"})
	l.fail = nil
	must(t, s.resume("42", "k2", "c", nil))
	l.expect(t, "kill", `start 1 on a,b,c,d,e from "c"`)
}

func TestJobEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := cluster(t)
		l.current.err = errors.New("exit status 1")
		close(l.current.done)
		synctest.Wait()
		expectJob(t, s, JobView{State: "ended", Nodes: []string{}, Message: "exit status 1"})
		if got := idle(s); got != "a,b,c,d,e,s" {
			t.Errorf("idle nodes = %s, want all", got)
		}
		refused(t, s.stop("42", "k"))
		refused(t, s.resume("42", "k", "", nil))
		if err := s.Stall(); err == nil {
			t.Error("Stall of a job that ended = no error, want one")
		}
	})
}

func TestEndOfAnEarlierStartIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := cluster(t)
		must(t, s.stop("42", "k1"))
		must(t, s.resume("42", "k2", "", nil))
		synctest.Wait() // the end of the killed process is seen now at the latest
		if got := s.Job().State; got != "running" {
			t.Errorf("state = %s, want running", got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	nodes := []Node{{Name: "a"}, {Name: "b"}}
	tests := []struct {
		name string
		o    Options
	}{
		{"no launcher", Options{Nodes: nodes, Job: Job{ID: "42", Width: 1}}},
		{"no id", Options{Nodes: nodes, Job: Job{Width: 1}, Launcher: &launcher{}}},
		{"too wide", Options{Nodes: nodes, Job: Job{ID: "42", Width: 3}, Launcher: &launcher{}}},
		{"a node twice", Options{Nodes: slices.Concat(nodes, nodes), Job: Job{ID: "42", Width: 1}, Launcher: &launcher{}}},
	}
	for _, test := range tests {
		if _, err := New(test.o); err == nil {
			t.Errorf("%s: New = no error, want one", test.name)
		}
	}
}

// TestManyCallers lets callers repeat the same operations at the same time: the
// job is restarted once for each key.
func TestManyCallers(t *testing.T) {
	s, l := cluster(t)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for i := range 20 {
				key := fmt.Sprint(i)
				_ = s.stop("42", key)
				_ = s.resume("42", key, "", nil)
				_ = s.isolate("s", key, "")
				_ = s.unisolate("s", key)
				s.Nodes()
				s.Job()
			}
		})
	}
	callers.Wait()
	starts := 0
	for _, line := range l.log {
		if strings.HasPrefix(line, "start") {
			starts++
		}
	}
	if got := s.Job().Restarts; starts > 20 || got != starts {
		t.Errorf("started again %d times for 20 keys, %d counted", starts, got)
	}
	if starts == 0 {
		t.Error("was never started again")
	}
}
