// Package alertmanager reads which alerts fire on which node.
//
// It polls Alertmanager's v2 API, because an answer to a question is the whole
// truth of that moment, which a webhook's or a queue's messages are not: they
// are lost, delayed and repeated. It decides which node an alert is about, by
// the label "node". Alerts are shown beside what the nodes say of themselves;
// they are no findings, and nothing is opened or authorised by them. When a poll
// fails, the alerts of the last one that did not are kept and marked.
package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/internal/fault"
	"github.com/evenkeel/evenkeel/internal/httpclient"
)

// Bounds on an answer. An alert with its labels and annotations is about 1 KiB.
const (
	maxBody          = 32 << 20
	maxAlertsPerNode = 64
	maxName          = 128 // bytes of an alert's name that are kept
)

// StaleMark ends the name of an alert that the last poll could not confirm.
const StaleMark = " (stale)"

// Config says where Alertmanager is.
type Config struct {
	// URL is Alertmanager's base URL, to which /api/v2/alerts is added; empty
	// turns polling off. For Managed Prometheus it ends in /alertmanager.
	URL string `yaml:"url"`
	// Interval is the time between two polls; a wake-up polls at once.
	Interval time.Duration `yaml:"interval"`
	// Timeout bounds one poll.
	Timeout time.Duration  `yaml:"timeout"`
	TLS     httpclient.TLS `yaml:"tls"`
	// SigV4 signs requests for Managed Prometheus; nil for no signing.
	SigV4 *sigv4.SigV4Config `yaml:"sigv4"`
}

// DefaultConfig is polling turned off, with the intervals it would have: half
// of the group_wait that Alertmanager's own default configuration has, so that
// an alert is seen here about when a person hears of it.
func DefaultConfig() Config {
	return Config{Interval: 15 * time.Second, Timeout: 10 * time.Second}
}

// Validate names the fields that cannot work, under the block "alertmanager".
func (c Config) Validate() error {
	var errs []error
	if c.URL != "" {
		errs = append(errs, httpclient.ValidateURL("alertmanager.url", c.URL))
	}
	if c.Interval <= 0 {
		errs = append(errs, fmt.Errorf("alertmanager.interval: must be positive, got %s", c.Interval))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("alertmanager.timeout: must be positive, got %s", c.Timeout))
	}
	errs = append(errs, c.TLS.Validate("alertmanager.tls"))
	if c.SigV4 != nil {
		if err := c.SigV4.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("alertmanager.sigv4: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Poller knows which alerts fire on which node. It is safe for concurrent use.
type Poller struct {
	config  Config
	cluster string
	client  *http.Client

	mu     sync.Mutex
	alerts map[string][]string // by node, sorted
	stale  bool                // the last poll failed
}

// New gives a poller for the alerts of a cluster. Credentials and certificates
// are read at the first poll.
func New(c Config, cluster string) *Poller {
	p := &Poller{config: c, cluster: cluster}
	if c.SigV4 == nil {
		p.client = httpclient.New("alertmanager", c.TLS)
		return p
	}
	p.client = httpclient.New("alertmanager", c.TLS, func(ctx context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		rt, err := sigv4.NewSigV4RoundTripper(c.SigV4, next, sigv4.WithContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("set up SigV4: %w", err)
		}
		return rt, nil
	})
	return p
}

// Alerts gives the names of the alerts that fire on each node. The slices are
// shared: read only.
func (p *Poller) Alerts() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stale {
		return p.alerts
	}
	marked := make(map[string][]string, len(p.alerts))
	for node, names := range p.alerts {
		for _, name := range names {
			marked[node] = append(marked[node], name+StaleMark)
		}
	}
	return marked
}

// Poll asks Alertmanager once. After an error the alerts of the last poll that
// succeeded stay, marked as stale.
func (p *Poller) Poll(ctx context.Context) error {
	alerts, err := p.fetch(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stale = err != nil
	if err != nil {
		return fmt.Errorf("poll Alertmanager: %w", err)
	}
	p.alerts = alerts
	return nil
}

func (p *Poller) fetch(ctx context.Context) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	// An alert that a person silenced is one that this person knows about.
	const path = "/api/v2/alerts?active=true&silenced=false&inhibited=false"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.config.URL, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 256)) // the status says enough without it
		return nil, fmt.Errorf("answered %s: %q", res.Status, text)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, err
	}
	return decode(body, p.cluster)
}

// alert is what is used of Alertmanager's gettableAlert.
type alert struct {
	Labels map[string]string `json:"labels"`
	Status struct {
		State string `json:"state"`
	} `json:"status"`
}

// decode gives the names of the active alerts of each node. An alert that names
// another cluster is left out; one that names none is taken.
func decode(body []byte, cluster string) (map[string][]string, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("answer is larger than %d bytes", maxBody)
	}
	var alerts []alert
	if err := json.Unmarshal(body, &alerts); err != nil {
		return nil, fmt.Errorf("decode alerts: %w", err)
	}
	if alerts == nil {
		return nil, errors.New("decode alerts: not a list")
	}
	byNode := make(map[string][]string)
	for _, a := range alerts {
		node, name := a.Labels["node"], a.Labels["alertname"]
		switch {
		case a.Status.State != "active", name == "", !fault.ValidName(node):
			continue
		case a.Labels["cluster"] != "" && a.Labels["cluster"] != cluster:
			continue
		}
		byNode[node] = append(byNode[node], name[:min(len(name), maxName)])
	}
	for node, names := range byNode {
		slices.Sort(names)
		names = slices.Compact(names)
		byNode[node] = names[:min(len(names), maxAlertsPerNode)]
	}
	return byNode, nil
}
