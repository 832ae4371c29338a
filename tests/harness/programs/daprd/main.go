// The official sidecar with one component more than the build tag of the stable ones selects: the
// lock of Redis, which only the tag of all components has, and that takes ten minutes to build.
package main

import (
	"github.com/dapr/components-contrib/lock/redis"
	"github.com/dapr/dapr/cmd/daprd/app"
	"github.com/dapr/dapr/pkg/components/lock"
)

func main() {
	lock.DefaultRegistry.RegisterComponent(redis.NewStandaloneRedisLock, "redis")
	app.Run()
}
