package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/remediate/incident"
)

// watchInterval is how often the demo reads the remediator's API. It bounds how
// late a line of the timeline can be, not what the daemons do.
const watchInterval = 50 * time.Millisecond

// watcher reads the remediator's API as any operator could, and tells the
// timeline what is new.
type watcher struct {
	base   string
	client *http.Client
	tell   func(actor, format string, args ...any)

	mu        sync.Mutex
	nodes     fault.NodeList
	incidents []incident.Incident
	said      map[string]bool
}

func newWatcher(base string, client *http.Client, tell func(string, string, ...any)) *watcher {
	return &watcher{base: base, client: client, tell: tell, said: map[string]bool{}}
}

// run polls until ctx ends.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		w.poll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// poll reads once. A remediator that does not answer is being restarted: the
// next poll sees what it remembers.
func (w *watcher) poll(ctx context.Context) {
	var nodes fault.NodeList
	var list struct {
		Incidents []incident.Incident `json:"incidents"`
	}
	if getJSON(ctx, w.client, w.base+"/v1/nodes", &nodes) != nil || getJSON(ctx, w.client, w.base+"/v1/incidents", &list) != nil {
		return
	}
	w.mu.Lock()
	w.nodes, w.incidents = nodes, list.Incidents
	w.mu.Unlock()
	for i := range nodes.Nodes {
		w.sayNode(&nodes.Nodes[i])
	}
	for i := len(list.Incidents) - 1; i >= 0; i-- { // oldest first
		w.sayIncident(&list.Incidents[i])
	}
}

// once tells the line unless the key was told before.
func (w *watcher) once(key, actor, format string, args ...any) {
	if w.said[key] {
		return
	}
	w.said[key] = true
	w.tell(actor, format, args...)
}

func (w *watcher) sayNode(n *fault.NodeStatus) {
	for i := range n.Findings {
		f := &n.Findings[i]
		key := fmt.Sprintf("%s %d", f.ID, f.First.UnixNano())
		what := fmt.Sprintf("%s on %s", f.Kind, f.Subject)
		evidence := ""
		if len(f.Evidence) > 0 {
			e := f.Evidence[len(f.Evidence)-1]
			evidence = fmt.Sprintf(" (%s: %.90s)", e.Source, e.Text)
		}
		switch {
		case f.State == fault.OK && f.ClearedBy != nil:
			w.once(key+" cleared", "finding", "%s cleared by %s: %.80s", what, f.ClearedBy.Clear, f.ClearedBy.Text)
		case f.State != fault.Bad:
		case f.SubsumedBy != "":
			w.once(key+" subsumed", "finding", "%s is explained by %s", what, f.SubsumedBy)
		case f.Provisional:
			w.once(key+" provisional", "finding", "%s, provisional%s", what, evidence)
		default:
			w.once(key+" confirmed", "finding", "%s, confirmed%s", what, evidence)
		}
	}
}

// moment is one line about an incident.
type moment struct {
	at   time.Time
	key  string
	text string
}

// noticeable is how long a hold has to stand to be worth a line.
const noticeable = 200 * time.Millisecond

func (w *watcher) sayIncident(i *incident.Incident) {
	var moments []moment
	add := func(at time.Time, key, format string, args ...any) {
		moments = append(moments, moment{at, i.ID + " " + key, i.Node + ": " + fmt.Sprintf(format, args...)})
	}
	if len(i.Phases) > 0 && i.Decision.Remedy != "" {
		add(i.Phases[0].From, "decision "+string(i.Decision.Remedy), "incident %s; policy rule %s asks for %s", i.ID, i.Decision.Rule, i.Decision.Remedy)
	}
	for _, h := range i.Holds {
		until := h.To
		if until.IsZero() {
			until = time.Now()
		}
		if until.Sub(h.From) < noticeable {
			continue
		}
		key := fmt.Sprint(h.Guard, h.From.UnixNano())
		add(h.From, key+" held", "held by %s: %s", h.Guard, h.Reason)
		if !h.To.IsZero() {
			add(h.To, key+" released", "no longer held by %s", h.Guard)
		}
	}
	for n, s := range i.Steps {
		if s.Outcome != incident.StepPending {
			add(s.OutcomeAt, fmt.Sprint("step ", n, s.Outcome), "%s: %s%s", s.Name, s.Outcome, after(", ", s.Detail))
		}
	}
	for _, p := range i.Phases {
		add(p.From, fmt.Sprint(p.State, p.From.UnixNano()), "%s%s", p.State, closing(i, p.State))
		if p.State == incident.Resuming {
			for _, r := range i.Checkpoint.Refused {
				add(p.From, "refused "+r.Path, "checkpoint %s refused: %s", lastElements(r.Path), r.Reason)
			}
			if i.Checkpoint.Path != "" {
				add(p.From, "chosen "+i.Checkpoint.Path, "checkpoint %s is whole: the job goes on from step %d", lastElements(i.Checkpoint.Path), i.Checkpoint.Step)
			}
		}
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
	for _, m := range moments {
		w.once(m.key, "remediator", "%s", m.text)
	}
	if !i.Open() && len(i.Phases) > 2 {
		w.once(i.ID+" phases", "remediator", "%s: time by phase: %s", i.Node, phases(i))
	}
}

// phases sums up how long the incident spent where.
func phases(i *incident.Incident) string {
	var parts []string
	for _, p := range i.Phases {
		if !p.To.IsZero() {
			parts = append(parts, fmt.Sprintf("%s %.2fs", p.State, p.To.Sub(p.From).Seconds()))
		}
	}
	return strings.Join(parts, ", ")
}

func closing(i *incident.Incident, s incident.State) string {
	if s != incident.Closed {
		return ""
	}
	return fmt.Sprintf(": %s%s", i.Outcome, after(", ", i.OutcomeReason))
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

// snapshot gives what the last poll saw.
func (w *watcher) snapshot() (fault.NodeList, []incident.Incident) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes, w.incidents
}

// node gives what the remediator last said about a node.
func (w *watcher) node(name string) (fault.NodeStatus, bool) {
	nodes, _ := w.snapshot()
	for _, n := range nodes.Nodes {
		if n.Node == name {
			return n, true
		}
	}
	return fault.NodeStatus{}, false
}

// incidentsOn gives the incidents on a node that were opened at or after since, newest first.
func (w *watcher) incidentsOn(node string, since time.Time) []incident.Incident {
	_, incidents := w.snapshot()
	var found []incident.Incident
	for _, i := range incidents {
		if i.Node == node && !i.OpenedAt.Before(since) {
			found = append(found, i)
		}
	}
	return found
}

// maxAnswer bounds what the demo reads from one of its daemons.
const maxAnswer = 16 << 20

func getJSON(ctx context.Context, client *http.Client, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("get %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s: %.200s", url, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("get %s: decode answer: %w", url, err)
	}
	return nil
}
