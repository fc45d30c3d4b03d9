// Package report tells the remediator what the agent holds about its node: the
// whole state each time, at once when it changes and as a heartbeat otherwise.
//
// It decides the position of each report in the order of the node's reports, and
// when an ended finding counts as delivered: once a report that carried it was
// accepted. It keeps at most one report in flight and queues none: while one is
// under way or has to be repeated, changes wait and go out together, as the state
// of that later moment. It refuses to give up: whatever the remediator answers,
// it hears from the agent again within a heartbeat.
package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/fault"
)

const (
	minBackoff = 100 * time.Millisecond
	// maxAnswer bounds what is read of an answer; a [fault.StaleReport] is far smaller.
	maxAnswer = 4 << 10
)

// State is what a report says beyond who sends it and where it stands.
type State struct {
	Findings  []fault.Finding
	Coverage  []fault.Coverage
	Jobs      []fault.Process
	Simulated bool
}

// Options says who reports to whom.
type Options struct {
	URL string // the remediator's base URL
	// Client carries the node's identity.
	Client    *http.Client
	Heartbeat time.Duration
	Timeout   time.Duration // of one request

	Cluster, Node, InstanceID, BootID string
	AgentVersion, CatalogueVersion    string
	// Incarnation is this start's, higher than that of any start before.
	Incarnation int64

	// State gives the state of the moment.
	State func() State
	// Delivered is told which ended findings an accepted report carried.
	Delivered func(ids []string)
	// Adopted is told of a higher incarnation that the reporter took up, before
	// the first report with it is sent.
	Adopted func(incarnation int64)

	Registerer prometheus.Registerer // nil discards
	Logger     *slog.Logger
}

// Reporter sends reports.
type Reporter struct {
	options     Options
	incarnation int64
	sequence    uint64
	changed     chan struct{}
	sent        *prometheus.CounterVec
	trouble     string // what was logged last, so that it is logged once
}

// Outcomes of a report: label values of evenkeel_agent_reports_sent_total.
const (
	resultAccepted = "accepted"
	resultStale    = "stale"   // 409: the remediator holds a newer one
	resultRefused  = "refused" // any other 4xx
	resultError    = "error"   // no answer, or the remediator's own trouble
)

// New makes a reporter that has sent nothing yet.
func New(o Options) *Reporter {
	r := &Reporter{
		options:     o,
		incarnation: o.Incarnation,
		changed:     make(chan struct{}, 1),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_agent_reports_sent_total",
			Help: "Reports sent to the remediator, by its answer.",
		}, []string{"result"}),
	}
	for _, result := range []string{resultAccepted, resultStale, resultRefused, resultError} {
		r.sent.WithLabelValues(result)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(r.sent)
	}
	return r
}

// Changed says that the state has news. It never blocks.
func (r *Reporter) Changed() {
	select {
	case r.changed <- struct{}{}:
	default: // one is waiting already, and will carry this news too
	}
}

// Run reports until ctx ends, first at once.
func (r *Reporter) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		// After a failure news does not hasten the next attempt: the wait is short,
		// and a remediator in trouble must not be hurried by every change.
		news := r.changed
		if failures > 0 {
			news = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-timer.C:
		}
		select {
		case <-r.changed: // this report carries it
		default:
		}
		switch result := r.send(ctx); {
		case ctx.Err() != nil:
			return
		case result == resultAccepted || result == resultRefused:
			// A refusal is not mended by haste: the next heartbeat, or the next news,
			// tries again.
			failures = 0
			timer.Reset(jitter(r.options.Heartbeat))
		default:
			timer.Reset(r.wait(failures))
			failures++
		}
	}
}

// wait is the time to the next attempt after so many failures: short at first,
// and never longer than a heartbeat, so that a remediator that was restarted
// soon hears from everyone.
func (r *Reporter) wait(failures int) time.Duration {
	backoff := r.options.Heartbeat
	if failures < 16 {
		backoff = min(minBackoff<<failures, r.options.Heartbeat)
	}
	return backoff/2 + rand.N(backoff/2+1)
}

// jitter spreads the heartbeats of a fleet that was started at once. It only
// shortens: the heartbeat is a promise.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }

// send sends one report and says what became of it.
func (r *Reporter) send(ctx context.Context) (result string) {
	defer func() {
		if ctx.Err() == nil {
			r.sent.WithLabelValues(result).Inc()
		}
	}()
	state := r.options.State()
	r.sequence++
	body, err := json.Marshal(r.report(state))
	if err != nil {
		r.complain(ctx, "encode report: "+err.Error())
		return resultError
	}
	status, answer, err := r.post(ctx, body)
	switch {
	case err != nil:
		r.complain(ctx, err.Error())
		return resultError
	case status/100 == 2:
		r.accepted(state)
		return resultAccepted
	case status == http.StatusConflict:
		r.adopt(ctx, answer)
		return resultStale
	case status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
		r.complain(ctx, describe(status, answer))
		return resultRefused
	default:
		r.complain(ctx, describe(status, answer))
		return resultError
	}
}

func (r *Reporter) report(state State) *fault.NodeReport {
	o := &r.options
	return &fault.NodeReport{
		Schema:           fault.ReportSchema,
		Cluster:          o.Cluster,
		Node:             o.Node,
		InstanceID:       o.InstanceID,
		BootID:           o.BootID,
		Incarnation:      r.incarnation,
		Sequence:         r.sequence,
		SentAt:           time.Now(),
		AgentVersion:     o.AgentVersion,
		CatalogueVersion: o.CatalogueVersion,
		Findings:         state.Findings,
		Coverage:         state.Coverage,
		Jobs:             state.Jobs,
		Simulated:        state.Simulated,
	}
}

func (r *Reporter) post(ctx context.Context, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	url := strings.TrimSuffix(r.options.URL, "/") + "/v1/reports"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "evenkeel-agent/"+r.options.AgentVersion)
	resp, err := r.options.Client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil && resp.StatusCode/100 != 2 {
		return 0, nil, fmt.Errorf("read the answer to a report: %w", err)
	}
	return resp.StatusCode, answer, nil
}

func (r *Reporter) accepted(state State) {
	if r.trouble != "" {
		r.trouble = ""
		r.options.Logger.Info("The remediator takes reports again")
	}
	var ended []string
	for i := range state.Findings {
		if state.Findings[i].State == fault.OK {
			ended = append(ended, state.Findings[i].ID)
		}
	}
	if len(ended) > 0 {
		r.options.Delivered(ended)
	}
}

// adopt continues above the position that the remediator holds. That happens
// after the state folder was lost together with a clock that was set back.
func (r *Reporter) adopt(ctx context.Context, answer []byte) {
	var stale fault.StaleReport
	if err := json.Unmarshal(answer, &stale); err != nil {
		r.complain(ctx, "a report was stale, and the answer does not say what is held: "+err.Error())
		return
	}
	held := stale.Held.Incarnation
	if held < r.incarnation || held == math.MaxInt64 {
		r.complain(ctx, fmt.Sprintf("a report was stale, and held is incarnation %d while this is %d", held, r.incarnation))
		return
	}
	r.options.Logger.Warn("Continuing above the report that the remediator holds", "incarnation", r.incarnation, "held", held)
	r.incarnation, r.sequence = held+1, 0
	r.options.Adopted(r.incarnation)
}

// complain logs trouble once, until it changes or ends.
func (r *Reporter) complain(ctx context.Context, trouble string) {
	if ctx.Err() != nil || trouble == r.trouble {
		return
	}
	r.trouble = trouble
	r.options.Logger.Warn("The remediator did not take a report", "err", trouble)
}

// describe puts an answer into one line.
func describe(status int, answer []byte) string {
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		said.Error = string(answer)
	}
	text := strings.ToValidUTF8(strings.TrimSpace(said.Error), "?")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return fmt.Sprintf("%d %s: %s", status, http.StatusText(status), text)
}

// NextIncarnation gives the incarnation of a start at now, given the last one
// that is known of.
func NextIncarnation(now time.Time, last int64) (int64, error) {
	if last == math.MaxInt64 {
		return 0, errors.New("the last incarnation is the highest that there can be")
	}
	return max(now.UnixNano(), last+1), nil
}
