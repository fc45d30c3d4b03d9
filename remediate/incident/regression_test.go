package incident

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

// scene is one story: what happens to a cluster under a running controller.
type scene struct {
	*testing.T
	w *world
	j *journal.Memory
	p *process
}

// play runs a story in a bubble of time.
func play(t *testing.T, nodes int, spare bool, pol policy.Policy, story func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, w: newWorld(nodes, spare), j: &journal.Memory{}}
		s.p = launch(t, s.w, s.w.options(pol, s.j))
		defer func() { s.p.stop() }()
		story(s)
	})
}

func (s *scene) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// restart ends the controller and starts another one on the same journal.
func (s *scene) restart(pol policy.Policy) {
	s.p.stop()
	s.p = launch(s.T, s.w, s.w.options(pol, s.j))
}

// wantCalls compares the calls that took effect so far.
func (s *scene) wantCalls(want ...string) {
	s.Helper()
	if diff := cmp.Diff(want, s.w.calls); diff != "" {
		s.Errorf("calls differ (-want +got):\n%s", diff)
	}
}

func (s *scene) wantEnd(o Outcome) {
	s.Helper()
	if i := s.p.only(s.T); i.State != Closed || i.Outcome != o {
		s.Errorf("incident is %s, %q (%s), held %v; want closed, %s", i.State, i.Outcome, i.OutcomeReason, i.Held(), o)
	}
}

func (s *scene) wantNodeInService(name string) {
	s.Helper()
	if n := s.w.nodes[name]; n.isolated {
		s.Errorf("%s is isolated as %q, held %v", name, n.isolationKey, s.p.Holds())
	}
}

func (s *scene) wantHeld(guards ...string) {
	s.Helper()
	var got []string
	for _, h := range s.p.Holds() {
		got = append(got, h.Guard)
	}
	if !slices.Equal(got, guards) {
		s.Errorf("held by %v, want %v", s.p.Holds(), guards)
	}
}

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

// Absence of a finding, of a report and of a view clears nothing and acts on nothing.
func TestAbsence(t *testing.T) {
	for name, absent := range map[string]func(*node){
		"finding": func(n *node) { n.findings = nil },
		"report":  func(n *node) { n.reporting = false },
		"view":    func(n *node) { n.noView = true },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, 3, false, handsOff(t), func(s *scene) {
				s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer })
				s.w.raise("n1", fault.XidOffTheBus)
				s.pass(time.Minute)
				s.w.do(func() { absent(s.w.nodes["n1"]); delete(s.w.readErr, "at_node") })
				s.pass(5 * time.Hour)
				if name == "view" {
					return // the facts' view is missing, and guards hold until it is back
				}
				s.wantCalls("isolate n1", "stop 42")
				if i := s.p.only(t); i.State != Acting {
					t.Errorf("incident is %s, %s; want it open in acting", i.State, i.Outcome)
				}
			})
		})
	}
}

// Nothing happens without a confirmed finding whose evidence a user of the node
// could not have written.
func TestUnauthorisedFindingsDoNothing(t *testing.T) {
	for name, change := range map[string]func(*fault.Finding){
		"provisional": provisional,
		"history":     func(f *fault.Finding) { f.History = true },
		"unknown":     func(f *fault.Finding) { f.State = fault.Unknown },
		"subsumed":    func(f *fault.Finding) { f.SubsumedBy = "another" },
		"by nobody":   func(f *fault.Finding) { f.Evidence[0].Authority = fault.ByNobody },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, 3, false, handsOff(t), func(s *scene) {
				s.w.raise("n1", fault.XidOffTheBus, change)
				s.pass(5 * time.Hour)
				s.wantCalls()
			})
		})
	}
}

// A silent node is replaced; its agent alone being silent is none of its faults.
func TestSilence(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.nodes["n1"].reporting = false })
		s.pass(time.Hour)
		s.wantCalls()
		s.w.raise("n1", fault.NodeSilent)
		s.w.raise("n2", fault.AgentSilent)
		s.pass(time.Hour)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0", "unisolate n1", "resume 42 from /ckpt/step_400")
	})
}

// A node that is said to be silent while it reports is not silent.
func TestSilenceContradictedByReport(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.NodeSilent)
		s.pass(time.Hour)
		s.wantCalls()
	})
}

// An answer that is lost is never answered by repeating a replacement before the
// provider's lag has passed; what the provider shows then decides.
func TestLostAnswerIsSettledByReading(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first answer
		want  StepOutcome
		calls int
	}{
		{"executed", lostAnswer, StepSettledDone, 1},
		{"not executed", lostRequest, StepSettledNotDone, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, 3, false, handsOff(t), func(s *scene) {
				var sent []time.Time
				s.w.do(func() {
					s.w.answer = func(call string) answer {
						if !strings.HasPrefix(call, "replace") {
							return done
						}
						if sent = append(sent, time.Now()); len(sent) == 1 {
							return tc.first
						}
						return done
					}
				})
				s.w.raise("n1", fault.XidOffTheBus)
				s.pass(20 * time.Minute)
				s.wantEnd(Repaired)
				if len(sent) != tc.calls || s.w.replaced["i-1-0"] != 1 {
					t.Errorf("replace was called %d times with %d effects, want %d and 1", len(sent), s.w.replaced["i-1-0"], tc.calls)
				}
				i := s.p.only(t)
				first := i.Steps[slices.IndexFunc(i.Steps, func(s Step) bool { return s.Name == StepReplace })]
				if first.Outcome != tc.want {
					t.Errorf("first attempt is %s, want %s", first.Outcome, tc.want)
				}
				if lag := handsOff(t).Timing.ProviderLag; len(sent) > 1 && sent[1].Sub(sent[0]) <= lag {
					t.Errorf("called again after %s, want more than the provider's lag %s", sent[1].Sub(sent[0]), lag)
				}
			})
		})
	}
}

// As long as the provider does not answer, nothing is known and nothing is done.
func TestUnknownIsWaitedFor(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() {
			s.w.answer = func(call string) answer {
				if strings.HasPrefix(call, "replace") {
					s.w.readErr["instance"] = errNoAnswer
					return lostAnswer
				}
				return done
			}
		})
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(12 * time.Hour)
		if i := s.p.only(t); i.State != Acting || i.act().Outcome != StepAmbiguous {
			t.Errorf("incident is %s, its step %q; want acting, ambiguous", i.State, i.act().Outcome)
		}
		s.wantHeld("world")
		s.w.do(func() { delete(s.w.readErr, "instance") })
		s.pass(20 * time.Minute)
		s.wantEnd(Repaired)
		if s.w.replaced["i-1-0"] != 1 {
			t.Errorf("replaced %v, want once", s.w.replaced)
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

// The gate: what a job may be resumed from.
func TestCheckpointGate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*world)
		want   []string
		held   []string
	}{
		{
			"newest whole", func(w *world) {},
			[]string{"isolate n1", "stop 42", "resume 42 from /ckpt/step_400", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"none at all", func(w *world) { w.choice = Choice{} },
			[]string{"isolate n1", "stop 42", "resume 42 from ", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"only torn ones", func(w *world) { w.choice.Path = "" },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"unreadable", func(w *world) { w.choice, w.chooseErr = Choice{}, errors.New("stale file handle") },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"folder not known", func(w *world) { w.job.dir = "" },
			[]string{"isolate n1", "stop 42"}, []string{"checkpoint"},
		},
		{
			"resumes by itself", func(w *world) { w.job.self = true },
			[]string{"isolate n1", "replace i-1-0", "unisolate n1"}, nil,
		},
		{
			"held by a person", func(w *world) { w.job.state = JobStopped },
			[]string{"isolate n1", "replace i-1-0", "unisolate n1"}, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			play(t, 4, true, handsOff(t), func(s *scene) {
				s.w.do(func() { tc.change(s.w) })
				s.w.raise("n1", fault.XidOffTheBus)
				s.pass(30 * time.Minute)
				s.wantCalls(tc.want...)
				s.wantHeld(tc.held...)
			})
		})
	}
}

// A spare that turns up while the node is away takes the job at once.
func TestLateSpareTakesTheJob(t *testing.T) {
	play(t, 4, true, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.nodes["n3"].isolated = true; s.w.repairTime = 30 * time.Minute })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(5 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0")
		s.w.do(func() { s.w.nodes["n3"].isolated = false })
		s.pass(time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0", "resume 42 from /ckpt/step_400")
		s.pass(40 * time.Minute)
		s.wantEnd(Repaired)
	})
}

// Two nodes of one job: the job is moved for one of them at a time, and the nodes
// are repaired one after the other.
func TestTwoNodesOfOneJob(t *testing.T) {
	play(t, 5, true, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.w.raise("n2", fault.XidDoubleBitECC)
		s.pass(time.Hour)
		for _, i := range s.p.Incidents() {
			if i.Outcome != Repaired {
				t.Errorf("incident on %s is %s, %q, held %v; want repaired", i.Node, i.State, i.Outcome, i.Held())
			}
		}
		if s.w.job.state != JobRunning || s.w.replaced["i-1-0"] != 1 || s.w.rebooted["boot-2-0"] != 1 {
			t.Errorf("job is %s, replaced %v, rebooted %v", s.w.job.state, s.w.replaced, s.w.rebooted)
		}
	})
}

// Approve waits for a person, and goes on with their consent.
func TestApprove(t *testing.T) {
	pol := handsOff(t, func(p *policy.Policy) { p.Rules[0].Mode = policy.Approve })
	play(t, 3, false, pol, func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Hour)
		s.wantCalls()
		s.wantHeld("mode")
		if err := s.p.Approve(t.Context(), s.p.only(t).ID, "operator"); err != nil {
			t.Fatal(err)
		}
		if err := s.p.Approve(t.Context(), s.p.only(t).ID, "operator"); !errors.Is(err, ErrNotWaiting) {
			t.Errorf("second Approve = %v, want %v", err, ErrNotWaiting)
		}
		s.pass(time.Hour)
		s.wantEnd(Repaired)
	})
}

// The default policy touches nothing and says what it would have done.
func TestObservePolicyTouchesNothing(t *testing.T) {
	pol, err := policy.Shipped(policy.NameObserve)
	if err != nil {
		t.Fatal(err)
	}
	play(t, 3, false, pol, func(s *scene) {
		for _, row := range catalogue.Rows() {
			s.w.raise("n1", row.Kind)
		}
		s.pass(5 * time.Hour)
		s.wantCalls()
		if i := s.p.only(t); i.State != Confirmed || i.Decision.Remedy != fault.Replace {
			t.Errorf("incident is %s for %s, want confirmed for replace", i.State, i.Decision.Remedy)
		}
		s.wantHeld("mode")
	})
}

// A fenced controller ends, and touches nothing any more.
func TestFencedControllerEnds(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		if _, err := s.j.Acquire(context.Background()); err != nil {
			t.Fatal(err)
		}
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Hour)
		s.wantCalls()
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, false)
		registry := prometheus.NewRegistry()
		opts := w.options(handsOff(t), &journal.Memory{})
		opts.Registerer = registry
		p := launch(t, w, opts)
		defer p.stop()
		w.raise("n1", fault.XidOffTheBus)
		time.Sleep(20 * time.Minute)
		w.raise("n2", fault.XidOffTheBus, provisional)
		time.Sleep(time.Minute)
		synctest.Wait()
		want := `
# HELP evenkeel_remediator_duplicate_actions_total Replacements asked for an instance that was replaced already. Must be 0.
# TYPE evenkeel_remediator_duplicate_actions_total counter
evenkeel_remediator_duplicate_actions_total{cluster="c"} 0
# HELP evenkeel_remediator_incidents Open incidents, by state.
# TYPE evenkeel_remediator_incidents gauge
evenkeel_remediator_incidents{cluster="c",state="acting"} 0
evenkeel_remediator_incidents{cluster="c",state="awaiting_return"} 0
evenkeel_remediator_incidents{cluster="c",state="checkpoint_gate"} 0
evenkeel_remediator_incidents{cluster="c",state="confirmed"} 0
evenkeel_remediator_incidents{cluster="c",state="isolated"} 0
evenkeel_remediator_incidents{cluster="c",state="observed"} 1
evenkeel_remediator_incidents{cluster="c",state="resuming"} 0
evenkeel_remediator_incidents{cluster="c",state="validating"} 0
# HELP evenkeel_remediator_incidents_total Incidents closed, by outcome.
# TYPE evenkeel_remediator_incidents_total counter
evenkeel_remediator_incidents_total{cluster="c",outcome="failed"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="handed_over"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="recovered"} 0
evenkeel_remediator_incidents_total{cluster="c",outcome="repaired"} 1
# HELP evenkeel_remediator_kill_switch 1 while the kill switch is on.
# TYPE evenkeel_remediator_kill_switch gauge
evenkeel_remediator_kill_switch{cluster="c"} 0
`
		err := testutil.GatherAndCompare(registry, strings.NewReader(want), "evenkeel_remediator_duplicate_actions_total",
			"evenkeel_remediator_incidents", "evenkeel_remediator_incidents_total", "evenkeel_remediator_kill_switch")
		if err != nil {
			t.Error(err)
		}
		if n := testutil.CollectAndCount(&gauges{c: p.Controller,
			incidents: prometheus.NewDesc("a", "", []string{"state"}, nil), holds: prometheus.NewDesc("b", "", []string{"reason"}, nil),
			kill: prometheus.NewDesc("c", "", nil, nil)}, "b"); n != len(holdNames) {
			t.Errorf("%d series of holds, want one for each of %v", n, holdNames)
		}
	})
}
