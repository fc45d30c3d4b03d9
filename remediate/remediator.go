// Package remediate wires the remediator together: what comes in (reports, the
// orchestrator's views, the provider's word, alerts) becomes facts, the facts go
// to the controller of incidents, and HTTP shows both.
//
// It decides when the facts are looked at: at once when a report changes
// anything, when a view or an alert arrives, and by a clock that the policy's
// timing sets. It refuses to work without its journal, and what the
// configuration leaves out is unknown to it and out of its reach.
package remediate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/remotewrite"
	"github.com/evenkeel/evenkeel/remediate/alertmanager"
	"github.com/evenkeel/evenkeel/remediate/api"
	"github.com/evenkeel/evenkeel/remediate/checkpoint"
	"github.com/evenkeel/evenkeel/remediate/command"
	"github.com/evenkeel/evenkeel/remediate/hyperpod"
	"github.com/evenkeel/evenkeel/remediate/incident"
	"github.com/evenkeel/evenkeel/remediate/ingest"
	"github.com/evenkeel/evenkeel/remediate/journal"
	"github.com/evenkeel/evenkeel/remediate/policy"
	"github.com/evenkeel/evenkeel/remediate/silence"
)

// journalLockTimeout is how long a starting remediator waits for one that is
// ending to let go of the journal.
const journalLockTimeout = 5 * time.Second

// Options is what the remediator needs beside its configuration.
type Options struct {
	Config Config
	Policy policy.Policy
	// StateDir is the folder of the journal and of the spool; it is made if it is
	// missing.
	StateDir string
	Logger   *slog.Logger
}

// orchestrator is what an adapter offers.
type orchestrator interface {
	incident.Nodes
	incident.Isolator
	incident.Jobs
}

// Remediator is one remediator for one cluster.
type Remediator struct {
	config Config
	timing policy.Timing
	logger *slog.Logger

	registry   *prometheus.Registry
	journal    *journal.Bolt
	controller *incident.Controller
	store      *ingest.Store
	watcher    *silence.Watcher
	poller     *alertmanager.Poller // nil without alertmanager.url
	writer     *remotewrite.Writer  // nil without remote_write.url
	nodes      incident.Nodes
	machines   incident.Machines
	sources    *sources
	views      views
	handler    http.Handler

	lookAgain signal // evaluate the facts
	askWorld  signal // ask orchestrator and provider
	askAlerts signal // ask Alertmanager
	silent    atomic.Pointer[map[string][]fault.Finding]
	looked    atomic.Bool
	probed    time.Time // when the provider was last asked for the sake of asking; of the world loop
}

// New opens the journal, loads the controller and connects nothing yet. Close
// lets go of what it opened.
func New(ctx context.Context, o Options) (*Remediator, error) {
	r := &Remediator{
		config: o.Config, timing: o.Policy.Timing, logger: o.Logger,
		registry:  prometheus.NewRegistry(),
		lookAgain: newSignal(), askWorld: newSignal(), askAlerts: newSignal(),
	}
	r.silent.Store(&map[string][]fault.Finding{})
	r.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("evenkeel"),
	)
	if err := r.assemble(ctx, o); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Remediator) assemble(ctx context.Context, o Options) error {
	// The durations of the catalogue pace the agents; here its rows are looked up.
	catalogue := fault.NewCatalogue(fault.DefaultTiming())
	r.sources = newSources(o.Config.Cluster, r.registry, o.Logger)
	r.store = ingest.New(ingest.Options{Cluster: o.Config.Cluster, MaxNodes: o.Config.MaxNodes, Catalogue: catalogue, Registerer: r.registry})
	levers, err := r.connect(ctx)
	if err != nil {
		return err
	}
	r.watcher = silence.NewWatcher(catalogue, r.machines, silence.Timing{
		After: r.timing.SilenceAfter, Confirm: r.timing.SilenceConfirm, ProviderLag: r.timing.ProviderLag, FreshWithin: r.timing.FreshWithin,
	}, r.timing.CallTimeout)
	checkpoints, err := checkpoint.New(checkpoint.Options{Roots: o.Config.Checkpoints.Roots})
	if err != nil {
		return fmt.Errorf("checkpoints.%w", err)
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	if r.journal, err = journal.OpenBolt(filepath.Join(o.StateDir, "journal.db"), journalLockTimeout); err != nil {
		return err
	}
	r.controller, err = incident.New(ctx, incident.Options{
		Cluster: o.Config.Cluster, Policy: o.Policy, Catalogue: catalogue, Journal: r.journal,
		Isolator: levers, Nodes: levers, Jobs: levers, Machines: r.machines, Checkpoints: checkpoints,
		Registerer: r.registry, Logger: o.Logger,
	})
	if err != nil {
		return fmt.Errorf("load incidents: %w", err)
	}
	if o.Config.RemoteWrite.URL != "" {
		if r.writer, err = r.newWriter(filepath.Join(o.StateDir, "remote-write")); err != nil {
			return err
		}
	}
	r.registry.MustRegister(newFleet(o.Config.Cluster, r.nodeList))
	r.handler, err = api.New(api.Options{
		Access: o.Config.Access, Reports: r.store, Incidents: r.controller, Controls: r.controller,
		Nodes: r.nodeList, Wake: r.wake, Ready: r.ready, Gatherer: r.registry, Logger: o.Logger,
	})
	return err
}

// connect makes the adapters of what is outside; each sends nothing yet.
func (r *Remediator) connect(ctx context.Context) (orchestrator, error) {
	r.machines = unconfigured("hyperpod")
	if c := r.config.HyperPod; c != nil {
		client, err := hyperpod.New(ctx, *c, hyperpod.Options{
			Logger:     r.logger,
			Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"cluster": r.config.Cluster}, r.registry),
			ShareFor:   min(2*time.Second, r.timing.Poll/2),
		})
		if err != nil {
			return nil, err
		}
		r.machines = machines{Machines: client, sources: r.sources}
	}
	if r.config.Alertmanager.URL != "" {
		r.poller = alertmanager.New(r.config.Alertmanager, r.config.Cluster)
	}
	if c := r.config.Orchestrator.Command; c != nil {
		adapter, err := command.New(*c)
		if err != nil {
			return nil, fmt.Errorf("orchestrator.command: %w", err)
		}
		r.nodes = adapter
		return adapter, nil
	}
	return unconfigured("orchestrator"), nil
}

func (r *Remediator) newWriter(dir string) (*remotewrite.Writer, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name for the label instance: %w", err)
	}
	return remotewrite.New(remotewrite.Options{
		Config: r.config.RemoteWrite, Dir: dir,
		External:   map[string]string{"cluster": r.config.Cluster, "job": "evenkeel-remediator", "instance": host},
		UserAgent:  "evenkeel-remediator/" + version.Version,
		Registerer: r.registry, Logger: r.logger,
	})
}

// Close lets go of the journal and the spool. Run must have returned.
func (r *Remediator) Close() error {
	var errs []error
	if r.writer != nil {
		errs = append(errs, r.writer.Close())
	}
	if r.journal != nil {
		errs = append(errs, r.journal.Close())
	}
	return errors.Join(errs...)
}

// Handler serves the remediator's HTTP interface.
func (r *Remediator) Handler() http.Handler { return r.handler }

// Run works until ctx ends, and returns nil then. It returns an error when the
// journal is lost to this process.
func (r *Remediator) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() { r.lookOn(ctx) })
	work.Go(func() { every(ctx, r.timing.Poll, r.askWorld, r.world) })
	if r.poller != nil {
		work.Go(func() { every(ctx, r.config.Alertmanager.Interval, r.askAlerts, r.pollAlerts) })
	}
	if r.writer != nil {
		work.Go(func() { r.writer.Push(ctx, r.registry, r.config.MetricsInterval) })
		work.Go(func() { r.writer.Run(ctx) })
	}
	return r.controller.Run(ctx)
}

// lookOn evaluates the facts whenever there is a reason to.
func (r *Remediator) lookOn(ctx context.Context) {
	ticker := time.NewTicker(tick(r.timing))
	defer ticker.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-r.store.Changed():
		case <-r.lookAgain:
		}
	}
}

// tick is how often the facts are looked at when nothing changes but the time:
// fine enough to notice the end of any duration within a fifteenth of it. That
// is once a second for the shipped timing, whose shortest is poll.
func tick(t policy.Timing) time.Duration {
	shortest := min(t.SilenceAfter, t.SilenceConfirm, t.FreshWithin, t.CommonCauseWait, t.HealthyFor, t.RetryAfter, t.Poll)
	return max(shortest/15, 10*time.Millisecond)
}

// look puts the facts together and hands them to the controller.
func (r *Remediator) look(ctx context.Context) {
	k := r.know()
	for _, n := range k.gone() {
		r.logger.Info("Node left the cluster", "node", n.Report.Node, "last_report", n.Received)
		r.store.Forget(n.Report.Node, n.Received)
	}
	k.silence = r.watcher.Observe(k.now, k.sights())
	r.silent.Store(&k.silence)
	err := r.controller.Observe(ctx, k.facts())
	if err != nil && ctx.Err() == nil {
		r.logger.Error("The facts could not be judged", "err", err)
	}
	r.looked.Store(err == nil)
}

// know collects what every part knows now.
func (r *Remediator) know() *knowledge {
	k := &knowledge{
		now: time.Now(), timing: r.timing, nodes: r.store.Nodes(), silence: *r.silent.Load(), incident: r.controller.OpenIncident,
	}
	k.views, k.viewed = r.views.current(k.now, r.timing.FreshWithin)
	if r.poller != nil {
		k.alerts = r.poller.Alerts()
	}
	return k
}

// nodeList is what /v1/nodes and the metrics show.
func (r *Remediator) nodeList() fault.NodeList {
	facts := r.know().facts()
	list := fault.NodeList{Cluster: r.config.Cluster, GeneratedAt: facts.Now, Nodes: make([]fault.NodeStatus, 0, len(facts.Nodes))}
	for i := range facts.Nodes {
		list.Nodes = append(list.Nodes, facts.Nodes[i].NodeStatus)
	}
	return list
}

// world asks the orchestrator for its views and the provider about suspects.
func (r *Remediator) world(ctx context.Context) {
	if r.nodes != nil {
		asked := time.Now()
		callCtx, cancel := context.WithTimeout(ctx, r.timing.CallTimeout)
		all, err := r.nodes.Views(callCtx)
		cancel()
		r.sources.answered(sourceOrchestrator, err)
		if err == nil {
			r.views.set(asked, all)
			r.lookAgain.send()
		}
	}
	if r.watcher.Ask(ctx, time.Now) {
		r.lookAgain.send()
	} else {
		r.probe(ctx)
	}
}

// probe asks the provider about any node now and then, so that missing
// credentials show before the first fault does.
func (r *Remediator) probe(ctx context.Context) {
	views, _ := r.views.current(time.Now(), r.timing.FreshWithin)
	if r.config.HyperPod == nil || len(views) == 0 || time.Since(r.probed) < r.timing.ProviderLag {
		return
	}
	r.probed = time.Now()
	ctx, cancel := context.WithTimeout(ctx, r.timing.CallTimeout)
	defer cancel()
	// What it says is of no matter: the record of whether it answers is.
	_, _ = r.machines.AtNode(ctx, slices.Min(slices.Collect(maps.Keys(views))))
}

func (r *Remediator) pollAlerts(ctx context.Context) {
	err := r.poller.Poll(ctx)
	r.sources.answered(sourceAlertmanager, err)
	r.lookAgain.send()
}

// wake looks at everything now.
func (r *Remediator) wake() {
	r.askWorld.send()
	r.askAlerts.send()
	r.lookAgain.send()
}

func (r *Remediator) ready() error {
	if !r.looked.Load() {
		return errors.New("the facts were not judged yet, or the last time without success")
	}
	return nil
}
