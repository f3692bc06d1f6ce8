/* F faults on N pages under one mutex, taken once a page, and a zap that takes it once: ptl.pml, for Nidhugg. */
#include <pthread.h>
#ifndef F
#define F 2
#endif
#ifndef N
#define N 2
#endif

static pthread_mutex_t ptl;
static int pte[N];

static void *fault(void *unused)
{
	for (int i = 0; i < N; i++) {
		pthread_mutex_lock(&ptl);
		if (!pte[i])
			pte[i] = 1;
		pthread_mutex_unlock(&ptl);
	}
	return unused;
}

static void *zap(void *unused)
{
	pthread_mutex_lock(&ptl);
	for (int i = 0; i < N; i++)
		if (pte[i])
			pte[i] = 0;
	pthread_mutex_unlock(&ptl);
	return unused;
}

int main(void)
{
	pthread_t t[F + 1];

	pthread_mutex_init(&ptl, 0);
	for (int i = 0; i < F; i++)
		pthread_create(&t[i], 0, fault, 0);
	pthread_create(&t[F], 0, zap, 0);
	for (int i = 0; i <= F; i++)
		pthread_join(t[i], 0);
	return 0;
}
