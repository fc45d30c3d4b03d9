// Package nodes reads the remediator's view of the nodes, /v1/nodes. It decides
// nothing: an answer is kept with the time it came, and whoever reads it judges
// its age. It refuses answers of another cluster and answers without bound.
package nodes

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/evenkeel/evenkeel/internal/fault"
)

// maxBytes bounds an answer: 2,048 nodes with many findings each are 20 MiB.
const maxBytes = 64 << 20

// Client reads one remediator.
type Client struct {
	// URL is that of the route, "https://remediator:9103/v1/nodes".
	URL     string
	Cluster string
	HTTP    *http.Client
}

// Nodes fetches the list.
func (c *Client) Nodes(ctx context.Context) (*fault.NodeList, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("read node health: %w", err)
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read node health: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read node health: HTTP status %s", response.Status)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read node health: %w", err)
	case len(body) > maxBytes:
		return nil, fmt.Errorf("read node health: answer is larger than %d bytes", maxBytes)
	}
	var list fault.NodeList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode node health: %w", err)
	}
	if list.Cluster != c.Cluster {
		return nil, fmt.Errorf("read node health: the answer is about cluster %.64q, not %q", list.Cluster, c.Cluster)
	}
	return &list, nil
}
