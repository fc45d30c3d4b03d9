package agent

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
)

// stuckAfter is how many intervals without a snapshot make the agent unhealthy.
const stuckAfter = 4

// Handler serves /metrics, /-/healthy, /-/ready and a page that links to them.
// Nothing behind it waits for a source.
func (a *Agent) Handler() (http.Handler, error) {
	landing, err := web.NewLandingPage(web.LandingConfig{
		Name:        "Evenkeel agent",
		Description: "What this node's accelerators, links and kernel say about its health",
		Version:     version.Info(),
		Profiling:   "false",
		Links: []web.LandingLinks{
			{Address: "/metrics", Text: "Metrics"},
			{Address: "/-/healthy", Text: "Healthy", Description: "whether the agent works"},
			{Address: "/-/ready", Text: "Ready", Description: "whether every source has answered or is known not to"},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make landing page: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", landing)
	mux.Handle("GET /metrics", a.snapshot)
	mux.HandleFunc("GET /-/healthy", a.healthy)
	mux.HandleFunc("GET /-/ready", a.ready)
	return mux, nil
}

// healthy answers 200 while snapshots are being taken. A node that is sick has a
// healthy agent.
func (a *Agent) healthy(w http.ResponseWriter, _ *http.Request) {
	at := a.snapshotAt.Load()
	if at == nil || time.Since(*at) > stuckAfter*a.config.Metrics.Interval {
		http.Error(w, "no snapshot is being taken", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "Evenkeel agent is healthy.")
}

// ready answers 200 once every source has been heard or has failed.
func (a *Agent) ready(w http.ResponseWriter, _ *http.Request) {
	if waiting := a.node.unheard(); len(waiting) > 0 {
		http.Error(w, fmt.Sprintf("waiting for %v", waiting), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "Evenkeel agent is ready.")
}
