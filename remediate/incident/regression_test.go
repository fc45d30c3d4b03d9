package incident

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// The tests of this file replay what users of other remediators reported; each
// names the thread.

// NVSentinel#1543: remediation loops without end. A node that keeps breaking is
// repaired per_node times within the window, then a person has to look.
func TestNoEndlessLoop(t *testing.T) {
	play(t, 2, false, handsOff(t), func(s *scene) {
		for range 30 {
			s.w.raise("n1", fault.XidDoubleBitECC)
			s.pass(20 * time.Minute)
		}
		if n := len(s.w.rebooted); n != 2 {
			t.Errorf("the node was rebooted %d times within a day, want 2", n)
		}
		s.wantHeld("budget")
	})
}

// NVSentinel#121, #458, #911: a repair that is called off must not be executed,
// and must not leave the node out of service.
func TestClearedBeforeActingIsGivenBack(t *testing.T) {
	pol := handsOff(t)
	play(t, 3, false, pol, func(s *scene) {
		s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer }) // keep it from acting
		s.w.raise("n1", fault.XidNVLink)
		s.pass(3 * time.Minute)
		s.wantCalls("isolate n1", "stop 42")
		s.w.clear("n1", fault.ClearReading)
		s.pass(3 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "unisolate n1", "resume 42 from /ckpt/step_400")
		s.wantEnd(Recovered)
	})
}

// A near miss of the above: evidence of a kind that does not end this fault.
func TestWrongEvidenceClearsNothing(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Minute)
		s.w.clear("n1", fault.ClearReading) // ends with a reboot or replacement only
		s.pass(30 * time.Minute)
		s.wantCalls("isolate n1", "stop 42")
		if i := s.p.only(t); i.State != Acting {
			t.Errorf("incident is %s, want acting", i.State)
		}
	})
}

// NVSentinel#141, draino#17: an operator puts the node back by hand; nothing
// goes on, and it is not isolated again during the cool-down.
func TestHumanPutsNodeBack(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.readErr["instance"] = errNoAnswer })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(2 * time.Minute)
		s.wantCalls("isolate n1", "stop 42")
		s.w.do(func() { n := s.w.nodes["n1"]; n.isolated, n.isolationKey = false, ""; delete(s.w.readErr, "instance") })
		s.pass(9 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "resume 42 from /ckpt/step_400")
		if i := s.p.Incidents()[len(s.p.Incidents())-1]; i.Outcome != HandedOver {
			t.Errorf("incident ended %q, want %s", i.Outcome, HandedOver)
		}
		s.wantHeld("cool_down")
	})
}

// NVSentinel#450, Karpenter PR #3192: after a brake is released, what has piled
// up must not be executed: each incident is judged by the facts of that moment.
func TestReleaseAfterKillSwitchJudgesAgain(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		if err := s.p.SetKillSwitch(t.Context(), "operator", "drill"); err != nil {
			t.Fatal(err)
		}
		s.w.raise("n0", fault.XidOffTheBus)
		s.w.raise("n1", fault.XidNVLink)
		s.pass(time.Hour)
		s.wantCalls()
		s.wantHeld("kill_switch", "kill_switch")
		s.restart(handsOff(t)) // the kill switch outlives the process
		s.pass(time.Hour)
		s.wantCalls()
		s.w.clear("n1", fault.ClearReading)
		s.w.do(func() { s.w.nodes["n0"].reporting = false }) // its evidence goes stale
		s.pass(time.Hour)
		if err := s.p.ClearKillSwitch(t.Context(), "operator"); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Hour)
		s.wantCalls()
	})
}

// NVSentinel#1280: a cold start replays an old event and reboots a node full of
// work. An incident of before is about an instance and a boot that are gone.
func TestColdStartDoesNotReplay(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer })
		s.w.raise("n1", fault.XidDoubleBitECC)
		s.pass(time.Minute)
		s.p.stop()
		// While the remediator is away somebody reboots the node.
		s.w.do(func() {
			delete(s.w.readErr, "at_node")
			n := s.w.nodes["n1"]
			n.boot, n.findings = "boot-by-hand", nil
		})
		s.restart(handsOff(t))
		s.pass(30 * time.Minute)
		if len(s.w.rebooted) != 0 {
			t.Errorf("rebooted %v, want no reboot: somebody else did it", s.w.rebooted)
		}
		s.wantEnd(Recovered)
	})
}

// NVSentinel#1451: an earlier "healthy" cancels a fresh quarantine.
func TestEarlierClearingCancelsNothing(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus, func(f *fault.Finding) {
			f.State = fault.OK
			f.ClearedBy = &fault.Evidence{Source: "kernel", Time: f.First.Add(-time.Second), Clear: fault.ClearReboot}
		})
		id := s.w.nodes["n1"].findings[0].ID
		n := s.w.nodes["n1"]
		j := judge{policy: new(handsOff(t)), catalogue: catalogue}
		snapshot := &Snapshot{Finding: finding(n, fault.XidOffTheBus)}
		snapshot.ID = id
		nf := s.w.facts().Nodes[1]
		if ok, why := j.cleared(snapshot, &nf, true); ok {
			t.Errorf("cleared by %s, which is older than the fault", why)
		}
		nf.Findings[0].ClearedBy.Time = nf.Findings[0].First
		if ok, _ := j.cleared(snapshot, &nf, true); !ok {
			t.Error("not cleared by evidence of the moment of the fault or later")
		}
	})
}

// NVSentinel#1536: an event that arrives while a repair runs is skipped for good.
func TestFaultDuringRepairIsNotForgotten(t *testing.T) {
	play(t, 2, false, handsOff(t, func(p *policy.Policy) { p.Guards.Budget.PerNode.Count = 0 }), func(s *scene) {
		s.w.raise("n1", fault.XidDoubleBitECC)
		s.pass(2*time.Minute + 30*time.Second) // back, being validated
		if i := s.p.only(t); i.State != Validating {
			t.Fatalf("incident is %s, want validating", i.State)
		}
		s.w.raise("n1", fault.DriverHung)
		s.pass(time.Minute)
		if all := s.p.Incidents(); len(all) != 2 || all[1].Outcome != Failed {
			t.Errorf("incidents are %v, want the first failed, for it did not make the node well, and a second", all)
		}
		s.wantHeld("cool_down")
		s.pass(30 * time.Minute)
		s.wantNodeInService("n1")
		if n := len(s.w.rebooted); n != 2 {
			t.Errorf("rebooted %d times, want again for the second fault after the cool-down", n)
		}
	})
}

// NVSentinel#1805, #1808: a passing failure of the provider is taken for "in
// progress" for ever.
func TestRefusedCallIsTriedAgain(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		refusals := 3
		s.w.do(func() {
			s.w.answer = func(call string) answer {
				if strings.HasPrefix(call, "replace") && refusals > 0 {
					refusals--
					return refused
				}
				return done
			}
		})
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(30 * time.Minute)
		s.wantEnd(Repaired)
		i := s.p.only(t)
		if act := i.act(); act.Attempt != 4 {
			t.Errorf("replaced with attempt %d, want 4", act.Attempt)
		}
	})
}

// A provider without capacity must not be hammered: the pause doubles.
func TestRefusedCallBacksOff(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		calls := 0
		s.w.do(func() {
			s.w.answer = func(call string) answer {
				if strings.HasPrefix(call, "replace") {
					calls++
					return refused
				}
				return done
			}
		})
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(24 * time.Hour)
		if calls < 50 || calls > 100 {
			t.Errorf("replace was tried %d times in a day, want about one in 16 minutes", calls)
		}
		if i := s.p.only(t); len(i.Steps) > maxSteps {
			t.Errorf("the incident holds %d steps, want at most %d", len(i.Steps), maxSteps)
		}
	})
}

// NVSentinel#1424: nodes are put back that somebody else took out.
func TestOthersIsolationIsRespected(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.nodes["n1"].isolated = true })
		s.w.raise("n1", fault.XidNVLink)
		s.pass(time.Hour)
		s.wantCalls()
		s.wantHeld("others")
		s.w.clear("n1", fault.ClearReading)
		s.pass(time.Hour)
		s.wantCalls()
		s.wantEnd(Recovered)
	})
}

// A person isolates the node after it was repaired: that isolation stays.
func TestOthersIsolationDuringRepairStays(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Minute)
		s.w.do(func() { s.w.nodes["n1"].isolationKey = "" }) // drained by hand over ours
		s.pass(20 * time.Minute)
		s.wantEnd(Repaired)
		if !s.w.nodes["n1"].isolated {
			t.Error("the node was put back against a person's isolation")
		}
	})
}

// NVSentinel#1439: of two rules that match, the second is never applied. Each
// finding has its own rule, and the strongest remedy among the findings wins.
func TestStrongestFindingDecides(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer })
		s.w.raise("n1", fault.DriverHung)
		s.pass(time.Minute)
		if i := s.p.only(t); i.Decision.Remedy != fault.Reboot {
			t.Errorf("remedy is %s, want reboot", i.Decision.Remedy)
		}
		s.w.raise("n1", fault.NeuronHardware)
		s.pass(time.Minute)
		if i := s.p.only(t); i.Decision.Remedy != fault.Replace || len(i.Findings) != 2 {
			t.Errorf("remedy is %s for %d findings, want replace for 2 in the same incident", i.Decision.Remedy, len(i.Findings))
		}
	})
}

// karpenter#2811, eks-node-monitoring-agent#266: one mis-reporting component gets
// many healthy nodes deleted. Many nodes at once are held, and released when the
// evidence clears.
func TestManyNodesAtOnceAreHeld(t *testing.T) {
	play(t, 6, false, handsOff(t), func(s *scene) {
		for n, name := range []string{"n0", "n1", "n2", "n3"} {
			s.w.raise(name, fault.XidNVLink)
			s.pass(time.Duration(n) * time.Second)
		}
		s.pass(2 * time.Hour)
		s.wantCalls()
		s.wantHeld("common_cause", "common_cause", "common_cause", "common_cause")
		for _, name := range []string{"n0", "n1", "n2", "n3"} {
			s.w.clear(name, fault.ClearReading)
		}
		s.pass(10 * time.Minute)
		s.wantCalls()
		s.wantHeld()
		for _, i := range s.p.Incidents() {
			if i.Outcome != Recovered {
				t.Errorf("incident on %s ended %q, want %s", i.Node, i.Outcome, Recovered)
			}
		}
	})
}

// The near miss: one node fewer is those nodes' own fault, one after the other.
func TestFewNodesAtOnceAreRepaired(t *testing.T) {
	play(t, 6, false, handsOff(t), func(s *scene) {
		s.w.raise("n0", fault.XidNVLink)
		s.w.raise("n1", fault.XidNVLink)
		s.pass(time.Hour)
		if s.w.rebooted["boot-0-0"] != 1 || s.w.rebooted["boot-1-0"] != 1 {
			t.Errorf("rebooted %v, want n0 and n1 once", s.w.rebooted)
		}
	})
}

// The common-cause hold outlives the process that saw it.
func TestCommonCauseHoldOutlivesRestart(t *testing.T) {
	play(t, 6, false, handsOff(t), func(s *scene) {
		for _, name := range []string{"n0", "n1", "n2"} {
			s.w.raise(name, fault.XidNVLink)
		}
		s.pass(20 * time.Second)
		s.w.clear("n0", fault.ClearReading)
		s.w.clear("n1", fault.ClearReading)
		s.pass(5 * time.Second)
		s.restart(handsOff(t))
		s.pass(2 * time.Minute)
		s.wantCalls()
		s.wantHeld("common_cause")
		s.pass(10 * time.Minute)
		if s.w.rebooted["boot-2-0"] != 1 {
			t.Errorf("rebooted %v, want n2, which is alone now", s.w.rebooted)
		}
	})
}

// A node that does not come back is given up, stays isolated, and gives its job
// and its place in the budget free.
func TestNodeThatDoesNotReturn(t *testing.T) {
	play(t, 4, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.repairTime = 1000 * time.Hour })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(30 * time.Minute)
		s.w.do(func() { s.w.repairTime = 2 * time.Minute })
		s.w.raise("n2", fault.XidDoubleBitECC)
		s.pass(20 * time.Minute)
		if s.w.rebooted["boot-2-0"] != 0 {
			t.Error("a second node was repaired while the first was in flight")
		}
		s.pass(40 * time.Minute)
		if s.w.rebooted["boot-2-0"] != 1 {
			t.Error("the second node still waits for one that was given up")
		}
		all := s.p.Incidents()
		i := all[slices.IndexFunc(all, func(i Incident) bool { return i.Node == "n1" })]
		if i.Outcome != Failed || !s.w.nodes["n1"].isolated || s.w.job.state != JobRunning {
			t.Errorf("incident ended %q, isolated %v, job %s; want failed, isolated, running", i.Outcome, s.w.nodes["n1"].isolated, s.w.job.state)
		}
	})
}

// NVSentinel#458: a node is left out of service though it is healthy. One that
// comes back after it was given up is put back all the same.
func TestNodeThatReturnsLate(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.repairTime = 3 * time.Hour })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(2 * time.Hour)
		s.wantEnd(Failed)
		s.pass(2 * time.Hour)
		s.wantEnd(Repaired)
		s.wantNodeInService("n1")
	})
}
