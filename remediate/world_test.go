package remediate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// noCheckpoints has none.
type noCheckpoints struct{}

func (noCheckpoints) Choose(context.Context, string) (incident.Choice, error) {
	return incident.Choice{}, nil
}

// provider answers every question with err.
type provider struct {
	incident.Machines
	err error
}

func (p provider) Instance(context.Context, string) (incident.Machine, error) {
	return incident.Machine{}, p.err
}

func TestSourcesRememberWhoAnswers(t *testing.T) {
	var log bytes.Buffer
	s := newSources("hp", prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
	ask := func(err error) { _, _ = machines{provider{err: err}, s}.Instance(t.Context(), "i-1") }
	if got := testutil.CollectAndCount(s.up); got != 0 {
		t.Errorf("%d series before anything was asked, want none", got)
	}
	for _, test := range []struct {
		err   error
		want  float64
		lines int
	}{
		{nil, 1, 0},
		{errors.New("no credentials"), 0, 1},
		{errors.New("no credentials"), 0, 1},
		{fmt.Errorf("i-1: %w", incident.ErrNotFound), 1, 2},
		{errors.New("throttled"), 0, 3},
		{context.Canceled, 0, 3},
	} {
		ask(test.err)
		if got := testutil.ToFloat64(s.up.WithLabelValues(sourceHyperPod)); got != test.want {
			t.Errorf("after %v: evenkeel_remediator_source_up = %v, want %v", test.err, got, test.want)
		}
		if got := strings.Count(log.String(), "\n"); got != test.lines {
			t.Errorf("after %v: %d lines logged, want %d", test.err, got, test.lines)
		}
	}
}

func TestViewsGoStale(t *testing.T) {
	var v views
	if _, known := v.current(start, time.Minute); known {
		t.Error("views are current before the orchestrator gave any")
	}
	v.set(start, nil)
	if all, known := v.current(start.Add(time.Minute), time.Minute); !known || len(all) != 0 {
		t.Errorf("current() = %v, %v, want an empty cluster that is known", all, known)
	}
	v.set(start, []incident.NodeView{{Node: "n1"}})
	if all, known := v.current(start.Add(time.Minute), time.Minute); !known || len(all) != 1 {
		t.Errorf("current() after a minute = %v, %v, want one node", all, known)
	}
	if all, known := v.current(start.Add(time.Minute+1), time.Minute); known || all != nil {
		t.Errorf("current() of views a moment too old = %v, %v, want nothing", all, known)
	}
}

func TestEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wake, done := newSignal(), make(chan struct{})
		var at []time.Duration
		began := time.Now()
		go func() {
			defer close(done)
			every(ctx, time.Minute, wake, func(context.Context) { at = append(at, time.Since(began)) })
		}()
		time.Sleep(90 * time.Second)
		wake.send()
		synctest.Wait()
		time.Sleep(31 * time.Second)
		cancel()
		<-done
		if got, want := fmt.Sprint(at), "[0s 1m0s 1m30s 2m0s]"; got != want {
			t.Errorf("called at %s, want %s", got, want)
		}
	})
}

func TestUnconfiguredRefuses(t *testing.T) {
	u := unconfigured("hyperpod")
	if err := u.Replace(t.Context(), incident.MachineCall{}); !errors.Is(err, incident.ErrNotExecuted) || !strings.Contains(err.Error(), "hyperpod") {
		t.Errorf("Replace() = %v, want %v and what is missing", err, incident.ErrNotExecuted)
	}
	if _, err := u.Instance(t.Context(), "i-1"); err == nil || errors.Is(err, incident.ErrNotFound) {
		t.Errorf("Instance() = %v, want an error that is not %v: nobody was asked", err, incident.ErrNotFound)
	}
	if _, err := u.View(t.Context(), "n1"); err == nil || errors.Is(err, incident.ErrNotFound) {
		t.Errorf("View() = %v, want an error that is not %v", err, incident.ErrNotFound)
	}
}
