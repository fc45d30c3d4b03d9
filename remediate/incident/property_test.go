package incident

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// TestProperties lets chance rule a small cluster: faults come, go, are forged
// and forgotten, agents fall silent, people interfere, calls are refused or go
// unanswered, views are missing, and the remediator is killed at any event. At
// each repair and each end of an isolation the invariants are checked from
// outside, by the world, the facts last shown, and the journal.
func TestProperties(t *testing.T) {
	seeds := 50
	switch {
	case os.Getenv("EVENKEEL_SOAK") != "":
		seeds = 2000
	case testing.Short():
		seeds = 10
	}
	total := make(map[string]int)
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			c := newChance(t, seed)
			c.play(3 * time.Hour)
			for call, n := range c.count {
				total[call] += n
			}
		})
	}
	t.Logf("%d clusters for 3 h each: %v", seeds, total)
	for _, call := range []string{"replace", "reboot", "unisolate", "killed", "ambiguous"} {
		if total[call] < seeds/10 {
			t.Errorf("chance led to %s only %d times: the test shows little", call, total[call])
		}
	}
}

type chance struct {
	*testing.T
	seed    uint64
	rand    *rand.Rand
	w       *world
	j       *journal.Memory
	policy  policy.Policy
	process *process
	mortal  *mortal

	// Guarded by the world's lock.
	killOn   bool // the kill switch, once it is certainly on
	count    map[string]int
	timeline []string
}

func newChance(t *testing.T, seed uint64) *chance {
	c := &chance{
		T: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 42)), w: newWorld(6, seed%2 == 0), j: &journal.Memory{},
		policy: handsOff(t, func(p *policy.Policy) { p.Guards.ProtectedHosts = []string{"n0"} }),
		count:  make(map[string]int),
	}
	c.w.inspect = c.inspect
	answers := rand.New(rand.NewPCG(seed, 43)) // used under the world's lock
	c.w.answer = func(string) answer {
		if answers.IntN(4) > 0 {
			return done
		}
		a := answer(answers.IntN(4))
		if a == lostRequest || a == lostAnswer {
			c.count["ambiguous"]++
		}
		return a
	}
	return c
}

func (c *chance) violation(format string, args ...any) {
	c.Errorf("seed %d, after %s: %s\n%v", c.seed, time.Since(c.w.start), fmt.Sprintf(format, args...), c.timeline[max(0, len(c.timeline)-30):])
}

func (c *chance) play(d time.Duration) {
	c.start()
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Duration(1+c.rand.IntN(60)) * time.Second)
		synctest.Wait()
		c.happen()
		if c.mortal.dead.Load() {
			c.process.stop()
			c.count["killed"]++
			time.Sleep(time.Duration(c.rand.IntN(120)) * time.Second)
			c.start()
		}
	}
	c.process.stop()
}

// start runs a remediator that will be killed at an event of chance.
func (c *chance) start() {
	c.mortal = &mortal{world: c.w, inner: c.j, kill: int64(3 + c.rand.IntN(60)), after: c.rand.IntN(2) == 0}
	for {
		opts := c.w.options(c.policy, c.mortal)
		opts.Isolator, opts.Jobs, opts.Machines = c.mortal, c.mortal, c.mortal
		p, err := tryLaunch(c.w, opts)
		if err == nil {
			c.process = p
			c.mortal.attach(p.cancel)
			return
		}
		c.mortal = &mortal{world: c.w, inner: c.j, kill: -1}
	}
}

// happen lets one thing happen.
func (c *chance) happen() {
	name := fmt.Sprintf("n%d", c.rand.IntN(len(c.w.nodes)))
	note := func(what string) {
		c.w.do(func() { c.timeline = append(c.timeline, fmt.Sprintf("%s %s %s", time.Since(c.w.start), what, name)) })
	}
	toggle := func(key string) {
		if c.w.readErr[key] == nil {
			c.w.readErr[key] = errNoAnswer
		} else {
			delete(c.w.readErr, key)
		}
	}
	n := c.w.nodes[name]
	rows := catalogue.Rows()
	switch c.rand.IntN(16) {
	case 0, 1, 2, 3:
		kind := rows[c.rand.IntN(len(rows))].Kind
		note("raise " + string(kind))
		if kind == fault.NodeSilent {
			c.w.do(func() { n.reporting = false })
		}
		c.w.raise(name, kind, c.anyChange())
	case 4, 5:
		by := []fault.Clear{fault.ClearReset, fault.ClearReading, fault.ClearReboot, fault.ClearKernel, fault.ClearReport}[c.rand.IntN(5)]
		note("clear by " + string(by))
		c.w.clear(name, by)
	case 6:
		note("forget the findings of")
		c.w.do(func() { n.findings = nil })
	case 7, 8:
		note("toggle the reports of")
		c.w.do(func() { n.reporting = !n.reporting })
	case 9:
		note("toggle the view of")
		c.w.do(func() { n.noView = !n.noView })
	case 10:
		note("toggle a reading, not of")
		c.w.do(func() { toggle([]string{"instance", "at_node", "view", "job"}[c.rand.IntN(4)]) })
	case 11:
		note("a person isolates or puts back")
		c.w.do(func() { n.isolated, n.isolationKey = !n.isolated, "" })
	case 12:
		note("a person reboots")
		c.w.do(func() {
			c.w.serial++
			n.boot, n.findings = fmt.Sprintf("boot-by-hand-%d", c.w.serial), nil
		})
	case 13:
		note("a person heals everything, also")
		c.w.do(func() {
			c.w.readErr = make(map[string]error)
			for _, n := range c.w.nodes {
				n.noView, n.reporting = false, true
			}
		})
	case 14:
		note("toggle the kill switch, not of")
		c.toggleKillSwitch()
	case 15:
		time.Sleep(time.Duration(c.rand.IntN(900)) * time.Second)
	}
}

// anyChange makes a finding less than what may be acted upon, or leaves it.
func (c *chance) anyChange() func(*fault.Finding) {
	return []func(*fault.Finding){
		func(*fault.Finding) {}, func(*fault.Finding) {}, func(*fault.Finding) {}, func(*fault.Finding) {}, provisional,
		func(f *fault.Finding) { f.Evidence[0].Authority = fault.ByNobody },
		func(f *fault.Finding) { f.History = true },
		func(f *fault.Finding) { f.State = fault.Unknown },
		func(f *fault.Finding) { f.Subject.InstanceID = "i-other" },
		func(f *fault.Finding) { f.BootID = "boot-other" },
	}[c.rand.IntN(10)]
}

func (c *chance) toggleKillSwitch() {
	if c.process.KillSwitch().On {
		c.w.do(func() { c.killOn = false })
		_ = c.process.ClearKillSwitch(c.Context(), "chance")
		return
	}
	err := c.process.SetKillSwitch(c.Context(), "chance", "drill")
	c.w.do(func() { c.killOn = err == nil })
}

// inspect checks the invariants at the moment of a call that takes effect.
func (c *chance) inspect(call string, n *node) {
	c.count[call]++
	c.timeline = append(c.timeline, fmt.Sprintf("%s CALL %s %s", time.Since(c.w.start), call, n.instance))
	if call == "unisolate" {
		if !slices.ContainsFunc(c.known(n.name), isWell) {
			c.violation("%s was put back though it is not known to be well: %+v", n.name, c.w.shown[n.name])
		}
		return
	}
	if c.killOn {
		c.violation("%s while the kill switch is on", call)
	}
	if n.name == "n0" {
		c.violation("%s of a protected host", call)
	}
	if c.w.replaced[n.instance] > 0 || call == "reboot" && c.w.rebooted[n.boot] > 0 {
		c.violation("second %s of %s, %s", call, n.instance, n.boot)
	}
	for other := range maps.Values(c.w.nodes) {
		if other.repair != nil {
			c.violation("%s of %s while %s is under repair: more than the budget of 1", call, n.name, other.name)
		}
	}
	if !slices.ContainsFunc(c.known(n.name), func(nf NodeFacts) bool { return c.authorised(call, n, &nf) }) {
		c.violation("%s of %s without a finding that authorises it: %+v", call, n.instance, c.w.shown[n.name])
	}
	c.wantIntent(call, n)
}

// known gives the facts by which a call of this moment may have been judged: of
// those that were shown at this very moment, nobody can say whether they came
// before the call or after it.
func (c *chance) known(name string) []NodeFacts {
	if time.Now().Equal(c.w.shownAt) && c.w.shownBefore != nil {
		return []NodeFacts{c.w.shown[name], c.w.shownBefore[name]}
	}
	return []NodeFacts{c.w.shown[name]}
}

func isWell(nf NodeFacts) bool {
	return nf.Fresh && nf.State == fault.OK && !slices.ContainsFunc(nf.Findings, func(f fault.Finding) bool { return f.State == fault.Bad && !f.History })
}

func (c *chance) authorised(call string, n *node, nf *NodeFacts) bool {
	return slices.ContainsFunc(nf.Findings, func(f fault.Finding) bool { return c.authorises(&f, call, n, nf) })
}

// authorises judges a finding anew, without the code under test. The instance is
// the world's, which the provider tells; the boot is the newest report's.
func (c *chance) authorises(f *fault.Finding, call string, n *node, nf *NodeFacts) bool {
	ok, _ := f.Authorises()
	row := catalogue.Row(f.Kind)
	d := c.policy.Decide(f, row)
	return ok && string(d.Remedy) == call && d.Mode == policy.Act && nf.Fresh != (f.Kind == fault.NodeSilent) &&
		f.Subject.InstanceID == n.instance && f.BootID == nf.BootID
}

// wantIntent looks for the intent in the journal itself.
func (c *chance) wantIntent(call string, n *node) {
	key := n.isolationKey
	for _, r := range journalled(c.T, c.j) {
		if r.Incident == nil || r.Incident.Node != n.name || !r.Incident.Open() {
			continue
		}
		act := r.Incident.act()
		if act == nil || string(act.Name) != call || act.Outcome != StepPending || act.InstanceID != n.instance {
			c.violation("%s of %s without a journalled intent: %+v", call, n.instance, act)
		}
		if key == "" || r.Incident.isolationKey() != key {
			c.violation("%s of %s, which is isolated as %q and not as %q", call, n.instance, key, r.Incident.isolationKey())
		}
		return
	}
	c.violation("%s of %s without an open incident in the journal", call, n.instance)
}
