// dskit-node is a member of a gossip cluster as Mimir's processes are: dskit's memberlist store with both rings.
//
// It puts an instance into collectors/ring, and a partition of which it is the owner into collectors/ingester-partitions, and prints what it sees twice
// a second: a line for each instance, partition and owner. With -activate it makes that partition active as soon as it sees it pending.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"strings"
	"time"

	kitlog "github.com/go-kit/log"
	"github.com/grafana/dskit/dns"
	"github.com/grafana/dskit/flagext"
	"github.com/grafana/dskit/kv/codec"
	"github.com/grafana/dskit/kv/memberlist"
	"github.com/grafana/dskit/ring"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	instancesKey  = "collectors/ring"
	partitionsKey = "collectors/ingester-partitions"
)

var (
	name      = flag.String("name", "go-1", "name of the node and of its instance")
	port      = flag.Int("port", 7946, "port to listen on, which others are told too")
	join      = flag.String("join", "", "member to join")
	partition = flag.Int("partition", 0, "partition to own")
	activate  = flag.Int("activate", -1, "partition to make active")
	runtime   = flag.Duration("for", 15*time.Second, "when to leave")
)

func startMember(ctx context.Context) (*memberlist.KVInitService, *memberlist.KV) {
	logger := kitlog.NewLogfmtLogger(os.Stderr)
	registry := prometheus.NewRegistry()
	var cfg memberlist.KVConfig
	flagext.DefaultValues(&cfg)
	cfg.NodeName = *name
	cfg.TCPTransport.BindAddrs = []string{"127.0.0.1"}
	cfg.TCPTransport.BindPort = *port
	// Without an address to advertise the port that is told is the one that is listened on.
	if *join != "" {
		cfg.JoinMembers = []string{*join}
	}
	cfg.Codecs = []codec.Codec{ring.GetCodec(), ring.GetPartitionRingCodec()}
	service := memberlist.NewKVInitService(&cfg, logger, dns.NewProvider(dns.GolangResolverType, 0, logger, registry), registry)
	if err := services.StartAndAwaitRunning(ctx, service); err != nil {
		log.Fatal(err)
	}
	store, err := service.GetMemberlistKV()
	if err != nil {
		log.Fatal(err)
	}
	return service, store
}

func client(store *memberlist.KV, c codec.Codec) *memberlist.Client {
	cl, err := memberlist.NewClient(store, c)
	if err != nil {
		log.Fatal(err)
	}
	return cl
}

func register(ctx context.Context, instances, partitions *memberlist.Client) {
	now := time.Now()
	err := instances.CAS(ctx, instancesKey, func(in interface{}) (interface{}, bool, error) {
		d := ring.GetOrCreateRingDesc(in)
		d.AddIngester(*name, "127.0.0.1:9095", "zone-a", []uint32{1, 2, 3}, ring.ACTIVE, now, false, time.Time{}, nil)
		return d, true, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	err = partitions.CAS(ctx, partitionsKey, func(in interface{}) (interface{}, bool, error) {
		d := ring.GetOrCreatePartitionRingDesc(in)
		d.AddPartition(int32(*partition), ring.PartitionActive, now)
		d.AddOrUpdateOwner(*name, ring.OwnerActive, int32(*partition), now)
		return d, true, nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func makeActive(ctx context.Context, partitions *memberlist.Client) {
	if *activate < 0 {
		return
	}
	_ = partitions.CAS(ctx, partitionsKey, func(in interface{}) (interface{}, bool, error) {
		d := ring.GetOrCreatePartitionRingDesc(in)
		if p, ok := d.Partitions[int32(*activate)]; !ok || p.State != ring.PartitionPending {
			return nil, false, nil
		}
		_, err := d.UpdatePartitionState(int32(*activate), ring.PartitionActive, time.Now())
		return d, true, err
	})
}

func show(ctx context.Context, instances, partitions *memberlist.Client) {
	var lines []string
	if v, err := instances.Get(ctx, instancesKey); err == nil && v != nil {
		for id, in := range v.(*ring.Desc).Ingesters {
			lines = append(lines, fmt.Sprintf("instance %s %s", id, in.State))
		}
	}
	if v, err := partitions.Get(ctx, partitionsKey); err == nil && v != nil {
		d := v.(*ring.PartitionRingDesc)
		for id, p := range d.Partitions {
			lines = append(lines, fmt.Sprintf("partition %d %s tokens %d", id, p.State.CleanName(), len(p.Tokens)))
		}
		for id, o := range d.Owners {
			lines = append(lines, fmt.Sprintf("owner %s of %d", id, o.OwnedPartition))
		}
	}
	sort.Strings(lines)
	fmt.Println(strings.Join(lines, "\n"))
}

func main() {
	flag.Parse()
	ctx := context.Background()
	service, store := startMember(ctx)
	instances, partitions := client(store, ring.GetCodec()), client(store, ring.GetPartitionRingCodec())
	register(ctx, instances, partitions)
	for end := time.Now().Add(*runtime); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		makeActive(ctx, partitions)
		show(ctx, instances, partitions)
	}
	if err := services.StopAndAwaitTerminated(ctx, service); err != nil {
		log.Fatal(err)
	}
}
