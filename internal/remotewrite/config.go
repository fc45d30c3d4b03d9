package remotewrite

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/sigv4"

	"github.com/evenkeel/evenkeel/internal/httpclient"
)

// Config is the block remote_write of a daemon's configuration.
type Config struct {
	// URL takes remote-write 1.0 bodies; empty turns remote write off.
	URL string `yaml:"url"`
	// Timeout bounds one request.
	Timeout time.Duration  `yaml:"timeout"`
	TLS     httpclient.TLS `yaml:"tls"`
	// SigV4 signs requests for Managed Prometheus; nil for no signing.
	SigV4 *sigv4.SigV4Config `yaml:"sigv4"`
	Spool SpoolConfig        `yaml:"spool"`
}

// SpoolConfig bounds what waits on disk.
type SpoolConfig struct {
	// Path is the folder; empty for the daemon's own default.
	Path string `yaml:"path"`
	// MaxBytes is the space that waiting bodies may take; the oldest go first.
	MaxBytes int64 `yaml:"max_bytes"`
	// MaxAge is the age at which a sample is given up.
	MaxAge time.Duration `yaml:"max_age"`
}

// DefaultConfig is remote write turned off, with the limits it would have.
//
// MaxAge: Managed Prometheus discards samples older than one hour; five minutes
// less leave room for clocks that differ. MaxBytes: 2,000 series every 15 s
// need about 13 MiB an hour.
func DefaultConfig() Config {
	return Config{
		Timeout: 30 * time.Second,
		Spool:   SpoolConfig{MaxBytes: 128 << 20, MaxAge: 55 * time.Minute},
	}
}

// minSpoolBytes keeps room for a few segments, so that enforcing the limit does
// not mean dropping everything.
const minSpoolBytes = 4 << 20

// Validate names the fields that are wrong.
func (c Config) Validate() error {
	var errs []error
	if c.URL != "" {
		errs = append(errs, httpclient.ValidateURL("remote_write.url", c.URL))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("remote_write.timeout: must be positive, got %s", c.Timeout))
	}
	errs = append(errs, c.TLS.Validate("remote_write.tls"))
	if c.SigV4 != nil {
		if err := c.SigV4.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("remote_write.sigv4: %w", err))
		}
	}
	if c.Spool.MaxBytes < minSpoolBytes {
		errs = append(errs, fmt.Errorf("remote_write.spool.max_bytes: must be at least %d, got %d", int64(minSpoolBytes), c.Spool.MaxBytes))
	}
	if c.Spool.MaxAge <= 0 {
		errs = append(errs, fmt.Errorf("remote_write.spool.max_age: must be positive, got %s", c.Spool.MaxAge))
	}
	return errors.Join(errs...)
}
