// Package hyperpod reads and repairs the machines of a SageMaker HyperPod
// cluster: it is the product's [incident.Machines].
//
// It decides two things. Which lever is ours: with NodeRecovery None the Batch
// API; with Automatic HyperPod acts on marks that it or an operator sets, and a
// second lever beside it would replace a node twice, so every call is refused.
// And what a failed call means: the Batch API has no client token, so an error
// is either proof that nothing was done ([incident.ErrNotExecuted]) or
// ambiguous, and an ambiguous call must not be repeated before the world has
// been read. Batch calls are therefore sent exactly once; reads are retried.
//
// It refuses simulated calls unless its endpoint is on loopback. A status that it
// does not know is not running, and comes with an error: unknown, not an answer.
//
// Node names are those of HyperPod's Slurm clusters: the first label of the
// private DNS name, "ip-10-1-2-3".
package hyperpod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"regexp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sagemaker"
	"github.com/aws/smithy-go/logging"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/remediate/incident"
)

// Config names the cluster. Credentials come from the SDK's default chain:
// environment, shared files, web identity, container or instance role.
type Config struct {
	// ClusterName is the HyperPod cluster's name or ARN.
	ClusterName string `yaml:"cluster_name"`
	Region      string `yaml:"region"`
	// Endpoint overrides the region's public endpoint: a VPC endpoint, or a local
	// server. Plain HTTP is taken for loopback only.
	Endpoint string `yaml:"endpoint"`
}

var (
	clusterPattern = regexp.MustCompile(`^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}|arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:[0-9]{12}:cluster/[a-z0-9]{12})$`)
	regionPattern  = regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-[0-9]+$`)
)

// Validate names every field that cannot work.
func (c Config) Validate() error {
	var errs []error
	if !clusterPattern.MatchString(c.ClusterName) {
		errs = append(errs, fmt.Errorf("cluster_name: %q is neither a HyperPod cluster's name nor its ARN", c.ClusterName))
	}
	if !regionPattern.MatchString(c.Region) {
		errs = append(errs, fmt.Errorf("region: %q is not a region such as us-west-2", c.Region))
	}
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("endpoint: %w", err))
		case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
			errs = append(errs, fmt.Errorf("endpoint: %q is not of the form https://host[:port]", c.Endpoint))
		case u.Scheme == "http" && !isLoopback(c.Endpoint):
			errs = append(errs, fmt.Errorf("endpoint: %q: plain http is taken for loopback only", c.Endpoint))
		}
	}
	return errors.Join(errs...)
}

// isLoopback reports whether an endpoint certainly stays on this machine: a
// loopback address or the name localhost. Other names resolve to whatever DNS
// says at the time, so none of them counts.
func isLoopback(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(u.Hostname())
	return err == nil && address.Unmap().IsLoopback()
}

// Options is what a client needs besides its configuration.
type Options struct {
	Logger *slog.Logger // nil discards
	// Registerer takes the metrics; nil discards them. Wrap it to add labels.
	Registerer prometheus.Registerer
	// Now is the clock by which answers are shared; time.Now if nil.
	Now func() time.Time
	// ShareFor is how old an answer about the whole cluster may be that callers
	// at about the same time share; 2 s if zero. Listing 2,048 nodes takes 21
	// requests, and every incident that waits asks the same.
	ShareFor time.Duration

	http doer // the SDK's own if nil
}

// Client is one HyperPod cluster. It is safe for concurrent use. Every call
// ends with its context; give it a deadline.
type Client struct {
	cluster  string
	loopback bool
	api      *sagemaker.Client
	logger   *slog.Logger
	metrics  *metrics

	lever     shared[lever]
	inventory shared[inventory]
	names     names
}

var _ incident.Machines = (*Client)(nil)

// New makes a client. It reads the SDK's environment and files, and sends
// nothing: credentials are fetched by the first call that needs them.
func New(ctx context.Context, c Config, o Options) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("hyperpod: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.ShareFor = cmp.Or(o.ShareFor, 2*time.Second)
	// An explicit mode, because AWS_DEFAULTS_MODE=auto would ask the instance
	// metadata service here and now.
	loaded, err := config.LoadDefaultConfig(ctx, config.WithRegion(c.Region), config.WithDefaultsMode(aws.DefaultsModeStandard))
	if err != nil {
		return nil, fmt.Errorf("hyperpod: load AWS configuration: %w", err)
	}
	m := newMetrics(o.Registerer)
	client := &Client{
		cluster:   c.ClusterName,
		loopback:  isLoopback(c.Endpoint),
		logger:    o.Logger,
		metrics:   m,
		lever:     newShared[lever](o.ShareFor, o.Now),
		inventory: newShared[inventory](o.ShareFor, o.Now),
	}
	client.api = sagemaker.NewFromConfig(loaded, func(s *sagemaker.Options) {
		if c.Endpoint != "" {
			s.BaseEndpoint = &c.Endpoint
		}
		if o.http != nil {
			s.HTTPClient = o.http
		}
		s.HTTPClient = observedHTTP{s.HTTPClient}
		s.Logger = logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
			o.Logger.Debug("AWS SDK: " + fmt.Sprintf(format, v...))
		})
		s.APIOptions = append(s.APIOptions, m.countThrottles)
	})
	return client, nil
}
