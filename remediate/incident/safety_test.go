package incident

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
)

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

// What clears while the world is being read is seen before the intent: nothing
// stands between the judgement and the call.
func TestClearedWhileReading(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.readTime = 17 * time.Second })
		s.w.raise("n1", fault.XidNVLink)
		s.pass(time.Minute - 20*time.Second)
		if i := s.p.only(t); i.State != Acting {
			t.Fatalf("incident is %s, want acting, with the provider being read", i.State)
		}
		s.w.clear("n1", fault.ClearReading)
		s.pass(10 * time.Minute)
		if len(s.w.rebooted) != 0 {
			t.Errorf("rebooted %v after the evidence was cleared", s.w.rebooted)
		}
		s.wantEnd(Recovered)
	})
}

// An instance that the provider itself is at work on is left to it, until it is
// running again and still bad.
func TestBusyMachineIsLeftAlone(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() { s.w.nodes["n1"].busy = true })
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(3 * time.Hour)
		s.wantCalls("isolate n1", "stop 42")
		s.wantHeld("world")
		s.w.do(func() { s.w.nodes["n1"].busy = false })
		s.pass(10 * time.Minute)
		s.wantEnd(Repaired)
	})
}

// slowJournal takes a while for each write, as a disk under load does.
type slowJournal struct{ journal.Journal }

func (j *slowJournal) Acquire(ctx context.Context) (journal.Session, error) {
	s, err := j.Journal.Acquire(ctx)
	return &slowSession{Session: s}, err
}

type slowSession struct{ journal.Session }

func (s *slowSession) Put(ctx context.Context, key string, expected uint64, value []byte) (uint64, error) {
	time.Sleep(3 * time.Second)
	return s.Session.Put(ctx, key, expected, value)
}

// Two incidents that ask at the same moment share one budget and one job, also
// while the intent of the first is still being written.
func TestTogetherWithinBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, true)
		w.inspect = func(call string, n *node) {
			for _, other := range w.nodes {
				if call != "unisolate" && other.repair != nil {
					t.Errorf("%s of %s while %s is under repair", call, n.name, other.name)
				}
			}
		}
		p := launch(t, w, w.options(handsOff(t), &slowJournal{Journal: &journal.Memory{}}))
		defer p.stop()
		w.raise("n1", fault.XidOffTheBus)
		w.raise("n2", fault.XidDoubleBitECC)
		time.Sleep(time.Hour)
		synctest.Wait()
		if w.replaced["i-1-0"] != 1 || w.rebooted["boot-2-0"] != 1 {
			t.Errorf("replaced %v, rebooted %v, want n1 and n2 once", w.replaced, w.rebooted)
		}
		stopped := false
		for _, call := range w.calls {
			switch {
			case call == "stop 42" && stopped:
				t.Errorf("the job was stopped by two incidents at once: %v", w.calls)
			case call == "stop 42":
				stopped = true
			case strings.HasPrefix(call, "resume 42"):
				stopped = false
			}
		}
		if stopped || w.job.state != JobRunning {
			t.Errorf("the job is %s, want it running: %v", w.job.state, w.calls)
		}
	})
}

// An incident that touched nothing leaves no cool-down behind.
func TestNoCoolDownAfterNothing(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidNVLink, provisional)
		s.pass(time.Minute)
		s.w.clear("n1", fault.ClearReading)
		s.pass(time.Minute)
		s.wantEnd(Recovered)
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Minute)
		s.wantCalls("isolate n1", "stop 42", "replace i-1-0")
	})
}

// A node that reports as a new instance is believed once the provider knows it.
func TestReturnNeedsTheProvidersWord(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.raise("n1", fault.XidOffTheBus)
		s.pass(time.Minute)
		s.w.do(func() { s.w.readErr["at_node"] = errNoAnswer })
		s.pass(30 * time.Minute)
		if i := s.p.only(t); i.State != AwaitingReturn {
			t.Errorf("incident is %s, want awaiting_return", i.State)
		}
		s.wantHeld("return")
		s.w.do(func() { delete(s.w.readErr, "at_node") })
		s.pass(5 * time.Minute)
		s.wantEnd(Repaired)
	})
}

// An isolation that was asked for without an answer is not taken for one that is
// in force when the fault clears and comes back.
func TestRelapseIsolatesFirst(t *testing.T) {
	play(t, 3, false, handsOff(t), func(s *scene) {
		s.w.do(func() {
			s.w.answer = func(call string) answer {
				if strings.HasPrefix(call, "isolate") {
					return lostRequest
				}
				return done
			}
		})
		s.w.raise("n1", fault.DriverHung)
		s.pass(20 * time.Second)
		s.w.clear("n1", fault.ClearReading)
		s.pass(20 * time.Second)
		if i := s.p.only(t); i.State != Validating {
			t.Fatalf("incident is %s, want validating", i.State)
		}
		s.w.do(func() { s.w.answer = nil })
		s.w.raise("n1", fault.XidDoubleBitECC)
		s.pass(20 * time.Minute)
		s.wantCalls("isolate n1", "stop 42", "reboot i-1-0", "unisolate n1", "resume 42 from /ckpt/step_400")
	})
}
