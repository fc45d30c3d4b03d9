package incident

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
)

// errDead is what everything answers to a process that was killed.
var errDead = errors.New("this process was killed")

// mortal kills the process that uses it at a chosen event: a write of the
// journal or a call that changes the world.
type mortal struct {
	world *world
	inner journal.Journal
	// kill is the number of the fatal event, from 1; after says whether the event
	// still takes effect.
	kill  int64
	after bool
	// lose makes the fatal event a call without answer instead of a death.
	lose   bool
	events atomic.Int64
	dead   atomic.Bool

	mu     sync.Mutex // guards everything that follows
	cancel context.CancelFunc
}

// pass counts an event and applies it, unless the process dies before it.
func (m *mortal) pass(effect func() error) error {
	if m.dead.Load() {
		return errDead
	}
	if m.events.Add(1) != m.kill {
		return effect()
	}
	if m.lose {
		if m.after {
			_ = effect()
		}
		return errNoAnswer
	}
	m.dead.Store(true)
	m.attach(nil)
	if m.after {
		_ = effect()
	}
	return errDead
}

// attach names what ends the process, and ends it if the fatal event came before.
// Without a name it only ends it.
func (m *mortal) attach(cancel context.CancelFunc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cancel != nil {
		m.cancel = cancel
	}
	if m.cancel != nil && m.dead.Load() {
		m.cancel()
	}
}

func (m *mortal) Acquire(ctx context.Context) (journal.Session, error) {
	s, err := m.inner.Acquire(ctx)
	return &mortalSession{Session: s, m: m}, err
}

type mortalSession struct {
	journal.Session
	m *mortal
}

func (s *mortalSession) Put(ctx context.Context, key string, expected uint64, value []byte) (revision uint64, err error) {
	if s.m.lose { // only calls can be without answer
		return s.Session.Put(ctx, key, expected, value)
	}
	err = s.m.pass(func() error {
		revision, err = s.Session.Put(ctx, key, expected, value)
		return err
	})
	return revision, err
}

func (m *mortal) Isolate(ctx context.Context, i Isolation) error {
	return m.pass(func() error { return m.world.Isolate(ctx, i) })
}

func (m *mortal) Unisolate(ctx context.Context, i Isolation) error {
	return m.pass(func() error { return m.world.Unisolate(ctx, i) })
}

func (m *mortal) Stop(ctx context.Context, s Stoppage) error {
	return m.pass(func() error { return m.world.Stop(ctx, s) })
}

func (m *mortal) Resume(ctx context.Context, r Resumption) error {
	return m.pass(func() error { return m.world.Resume(ctx, r) })
}

func (m *mortal) Job(ctx context.Context, id string) (JobView, error) { return m.world.Job(ctx, id) }

func (m *mortal) Replace(ctx context.Context, c MachineCall) error {
	return m.pass(func() error { return m.world.Replace(ctx, c) })
}

func (m *mortal) Reboot(ctx context.Context, c MachineCall) error {
	return m.pass(func() error { return m.world.Reboot(ctx, c) })
}

func (m *mortal) Instance(ctx context.Context, id string) (Machine, error) {
	return m.world.Instance(ctx, id)
}

func (m *mortal) AtNode(ctx context.Context, name string) (Machine, error) {
	return m.world.AtNode(ctx, name)
}

// TestCrash cuts the remediator off before and after every write of the journal
// and every call to the world, and lets every call go unanswered with and without
// effect. Whatever happens, the node is repaired exactly once, the job is resumed
// exactly once, and the incident ends well.
func TestCrash(t *testing.T) {
	for _, scene := range []struct {
		name  string
		spare bool
		kind  fault.Kind
	}{
		{"replace with a spare", true, fault.XidOffTheBus},
		{"replace without a spare", false, fault.XidOffTheBus},
		{"reboot with a spare", true, fault.XidDoubleBitECC},
	} {
		t.Run(scene.name, func(t *testing.T) {
			runs := 0
			for _, lose := range []bool{false, true} {
				for _, after := range []bool{false, true} {
					for kill := int64(1); ; kill++ {
						var reached bool
						name := fmt.Sprintf("event %d, lost answer %v, took effect %v", kill, lose, after)
						synctest.Test(t, func(t *testing.T) {
							reached = crashOnce(t, name, scene.spare, scene.kind, kill, lose, after)
						})
						if !reached {
							break
						}
						runs++
					}
				}
			}
			t.Logf("%s: ended well with one repair in %d of %d cuts", scene.name, runs, runs)
			if runs < 40 {
				t.Errorf("only %d cuts were made, want at least 40", runs)
			}
		})
	}
}

// crashOnce plays the scene with one cut. It reports false when the scene ended
// before the event was reached.
func crashOnce(t *testing.T, name string, spare bool, kind fault.Kind, kill int64, lose, after bool) bool {
	count := 3
	if spare {
		count = 4
	}
	w := newWorld(count, spare)
	j := &journal.Memory{}
	m := &mortal{world: w, inner: j, kill: kill, lose: lose, after: after}
	opts := w.options(handsOff(t), m)
	opts.Isolator, opts.Jobs, opts.Machines = m, m, m
	first := launch(t, w, opts)
	m.attach(first.cancel)
	w.raise("n1", kind)
	time.Sleep(time.Second)
	deadline := time.Now().Add(20 * time.Minute)
	for !m.dead.Load() && time.Now().Before(deadline) {
		time.Sleep(time.Second)
	}
	reached := m.events.Load() >= kill
	first.stop()

	// Every run is taken over once more, also those that were not cut.
	second := launch(t, w, w.options(handsOff(t), j))
	time.Sleep(30 * time.Minute)
	synctest.Wait()
	defer second.stop()

	repairs := w.replaced["i-1-0"] + w.rebooted["boot-1-0"]
	total := 0
	for _, n := range w.replaced {
		total += n
	}
	for _, n := range w.rebooted {
		total += n
	}
	if repairs != 1 || total != 1 {
		t.Errorf("%s: node was repaired %d times, %d in all, want once", name, repairs, total)
	}
	if w.job.restarts != 1 || w.job.state != JobRunning || w.job.checkpoint != "/ckpt/step_400" {
		t.Errorf("%s: job is %s from %q after %d restarts, want it running from /ckpt/step_400 after 1", name, w.job.state, w.job.checkpoint, w.job.restarts)
	}
	if n := w.nodes["n1"]; n.isolated {
		t.Errorf("%s: node is still isolated", name)
	}
	i := second.only(t)
	if i.State != Closed || i.Outcome != Repaired {
		t.Errorf("%s: incident is %s, %q, held %v, steps %+v; want closed, repaired", name, i.State, i.Outcome, i.Held(), i.Steps)
	}
	return reached
}

// TestOnBolt plays the scene on the journal that the product uses, with the
// process ended in the middle and the file opened again.
func TestOnBolt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	open := func() *journal.Bolt {
		b, err := journal.OpenBolt(path, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(4, true)
		p := launch(t, w, w.options(handsOff(t), b))
		w.raise("n1", fault.XidOffTheBus)
		time.Sleep(time.Minute)
		p.stop()
		if i := p.only(t); i.State != AwaitingReturn {
			t.Errorf("incident is %s, want awaiting_return", i.State)
		}
		b.Close()
		b = open()
		p = launch(t, w, w.options(handsOff(t), b))
		defer p.stop()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if i := p.only(t); i.Outcome != Repaired || w.replaced["i-1-0"] != 1 {
			t.Errorf("incident is %s, %q, replaced %v; want repaired, once", i.State, i.Outcome, w.replaced)
		}
	})
	b.Close()
}

// TestCrashTwice cuts the remediator off at a second event after the first. The
// pairs are a sample of all.
func TestCrashTwice(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const pairs = 200
	for range pairs {
		cuts := []*mortal{
			{kill: 1 + random.Int64N(24), after: random.IntN(2) == 0},
			{kill: 1 + random.Int64N(16), after: random.IntN(2) == 0},
		}
		name := fmt.Sprintf("events %d (%v) and then %d (%v)", cuts[0].kill, cuts[0].after, cuts[1].kill, cuts[1].after)
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(4, true)
			j := &journal.Memory{}
			w.raise("n1", fault.XidOffTheBus)
			for _, m := range cuts {
				m.world, m.inner = w, j
				opts := w.options(handsOff(t), m)
				opts.Isolator, opts.Jobs, opts.Machines = m, m, m
				p, err := tryLaunch(w, opts)
				if err != nil {
					continue // killed while it loaded the journal
				}
				m.attach(p.cancel)
				for end := time.Now().Add(20 * time.Minute); !m.dead.Load() && time.Now().Before(end); {
					time.Sleep(time.Second)
				}
				p.stop()
			}
			p := launch(t, w, w.options(handsOff(t), j))
			defer p.stop()
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if i := p.only(t); i.Outcome != Repaired || w.replaced["i-1-0"] != 1 || len(w.replaced) != 1 || w.job.restarts != 1 {
				t.Errorf("%s: incident is %s, %q, replaced %v, job restarted %d times; want repaired, once, once", name, i.State, i.Outcome, w.replaced, w.job.restarts)
			}
		})
	}
	t.Logf("%d pairs of cuts: one replacement each", pairs)
}
