// gload: a closed-loop gRPC load generator on libnghttp2. It costs about a fifth of a core where a Python client costs
// several, so that the server is what saturates. tests/benchmarks/gload.py builds and drives it; by hand:
//   gcc -O2 -o gload gload.c -lnghttp2
//
// N sessions over C connections, bidi stream or unary.
// -r RATE (bidi): paced by a busy loop, each latency counted from the intended send time (coordinated omission corrected).
// gload -p PORT -m /pkg.Svc/Method [-H host] -c conns -n sessions -M bidi|unary -w warm_s -d dur_s -f payload_prefix [-P server_root_pid] [-k header:value-with-%d]
// payloads: PREFIX.start.<i> (first message, optional), PREFIX.<i>, or PREFIX (common); without the gRPC prefix. Each message waits for one reply.
// Measures from when the warm time is over and every stream had a reply (streams are accepted one after another), but 15 s at the latest.
// Prints messages a second, latency percentiles, the server's CPU (of -P and its children), errors, streams that got no reply at all (starved),
// the fewest and the mean messages of a stream in the measured time (least, mean), after how long every stream had a reply (ready; 0: not all had), and the last reply of session 0 in hex.
#define _GNU_SOURCE
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <dirent.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
typedef struct { uint8_t *b; size_t n; } Buf;
typedef struct Conn Conn;
typedef struct { double due; int idle; int id; Conn *c; int32_t sid; Buf first, next; const Buf *cur; size_t off; int sending; int started;
  double t0; size_t got; uint32_t need; uint8_t hdr[5]; int msgs, counted; uint8_t last[4096]; size_t lastn; int status; char hv[64]; } Sess;
struct Conn { int fd; nghttp2_session *s; uint8_t *out; size_t outn, outcap; };
static int port=50051,nconn=1,nsess=1,unary=0; static double warm=1,dur=5,rate=0,period=0; static const char*path,*prefix,*host="127.0.0.1",*hk=NULL; static char hkname[64],hkval[64]; static int spid=0;
static uint32_t *lat; static size_t nlat,caplat=40000000; static int measuring; static int answered; static double readymax=15; static long errors; static char emsg[256]; static int stop;
static Sess *S; static Conn *C;
static double now(){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec+t.tv_nsec*1e-9;}
static Buf rd(const char*f){Buf b={0};FILE*h=fopen(f,"rb");if(!h)return b;fseek(h,0,2);long n=ftell(h);rewind(h);b.b=malloc(n+5);b.b[0]=0;b.b[1]=n>>24;b.b[2]=n>>16;b.b[3]=n>>8;b.b[4]=n;if(fread(b.b+5,1,n,h)!=(size_t)n)exit(3);b.n=n+5;fclose(h);return b;}
static void submit(Sess*s);
static ssize_t readcb(nghttp2_session*ss,int32_t sid,uint8_t*buf,size_t len,uint32_t*flags,nghttp2_data_source*src,void*u){
  Sess*s=src->ptr; if(!s->sending) return NGHTTP2_ERR_DEFERRED;
  size_t k=s->cur->n-s->off; if(k>len)k=len; memcpy(buf,s->cur->b+s->off,k); s->off+=k;
  if(s->off==s->cur->n){s->sending=0; if(unary)*flags|=NGHTTP2_DATA_FLAG_EOF;} return k; }
static void arm(Sess*s){ s->cur=(!s->started&&s->first.b)?&s->first:&s->next; s->started=1; s->off=0; s->sending=1; s->t0=rate?s->due:now(); s->got=0; }
static void rec(Sess*s){ s->counted+=measuring; if(measuring&&nlat<caplat) lat[nlat++]=(uint32_t)((now()-s->t0)*1e6); answered+=!s->msgs++; }
static void msgdone(Sess*s){ if(!unary){ rec(s); if(!stop){ if(rate){ s->due+=period; if(now()<s->due){ s->idle=1; return; } } arm(s); nghttp2_session_resume_data(s->c->s,s->sid);} } }
static int ondata(nghttp2_session*ss,uint8_t fl,int32_t sid,const uint8_t*d,size_t n,void*u){
  Sess*s=nghttp2_session_get_stream_user_data(ss,sid); if(!s)return 0;
  while(n){ if(s->got<5){ s->hdr[s->got++]=*d++; n--; if(s->got==5){s->need=(s->hdr[1]<<24)|(s->hdr[2]<<16)|(s->hdr[3]<<8)|s->hdr[4]; s->lastn=0; if(!s->need){s->got=0;msgdone(s);} } continue; }
    size_t k=s->need-(s->got-5); if(k>n)k=n; if(s->lastn+k<=sizeof s->last){memcpy(s->last+s->lastn,d,k);s->lastn+=k;} s->got+=k; d+=k; n-=k;
    if(s->got-5==s->need){ s->got=0; msgdone(s);} }
  return 0; }
static int onhdr(nghttp2_session*ss,const nghttp2_frame*f,const uint8_t*nm,size_t nl,const uint8_t*v,size_t vl,uint8_t fl,void*u){
  Sess*s=nghttp2_session_get_stream_user_data(ss,f->hd.stream_id); if(!s)return 0;
  if(nl==11&&!memcmp(nm,"grpc-status",11)) s->status=atoi((const char*)v);
  if(nl==12&&!memcmp(nm,"grpc-message",12)&&!emsg[0]) snprintf(emsg,sizeof emsg,"%.*s",(int)vl,v);
  if(nl==7&&!memcmp(nm,":status",7)&&memcmp(v,"200",3)) snprintf(emsg,sizeof emsg,"http %.*s",(int)vl,v);
  return 0; }
static int onclose(nghttp2_session*ss,int32_t sid,uint32_t ec,void*u){
  Sess*s=nghttp2_session_get_stream_user_data(ss,sid); if(!s)return 0;
  if(s->status!=0||ec){ errors++; if(ec&&!emsg[0])snprintf(emsg,sizeof emsg,"rst %u",ec);} 
  if(unary){ if(s->status==0&&!ec) rec(s); if(!stop&&errors<1000) submit(s);} else if(!stop){ errors++; }
  return 0; }
#define NV(a,b) {(uint8_t*)a,(uint8_t*)b,strlen(a),strlen(b),NGHTTP2_NV_FLAG_NONE}
static void submit(Sess*s){ char auth[64]; snprintf(auth,64,"%s:%d",host,port);
  nghttp2_nv nv[]={NV(":method","POST"),NV(":scheme","http"),NV(":path",path),NV(":authority",auth),NV("content-type","application/grpc"),NV("te","trailers"),NV("user-agent","gload"),{(uint8_t*)hkname,(uint8_t*)s->hv,strlen(hkname),strlen(s->hv),0}};
  nghttp2_data_provider dp; dp.source.ptr=s; dp.read_callback=readcb; s->status=-1; arm(s);
  s->sid=nghttp2_submit_request(s->c->s,NULL,nv,hk?8:7,&dp,s); if(s->sid<0){fprintf(stderr,"submit %s\n",nghttp2_strerror(s->sid));exit(4);} }
static ssize_t sendcb(nghttp2_session*ss,const uint8_t*d,size_t n,int fl,void*u){ Conn*c=u; if(c->outn+n>c->outcap){c->outcap=(c->outn+n)*2;c->out=realloc(c->out,c->outcap);} memcpy(c->out+c->outn,d,n); c->outn+=n; return n; }
static void flush(Conn*c){ int r=nghttp2_session_send(c->s); if(r){fprintf(stderr,"send %s\n",nghttp2_strerror(r));exit(5);} size_t o=0; while(o<c->outn){ ssize_t k=write(c->fd,c->out+o,c->outn-o); if(k<0){ if(errno==EAGAIN){usleep(50);continue;} perror("write");exit(6);} o+=k;} c->outn=0; }
static double cputree(int root){ // cpu seconds of root and descendants
  static struct{int pid,pp;double t;int in;} P[8192]; int n=0; DIR*d=opendir("/proc"); struct dirent*e; long hz=sysconf(_SC_CLK_TCK);
  while((e=readdir(d))&&n<8192){ int pid=atoi(e->d_name); if(!pid)continue; char f[64],b[1024]; snprintf(f,64,"/proc/%d/stat",pid); FILE*h=fopen(f,"r"); if(!h)continue; size_t k=fread(b,1,1023,h); fclose(h); b[k]=0; char*q=strrchr(b,')'); if(!q)continue; int pp; unsigned long ut,st; if(sscanf(q+2,"%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",&pp,&ut,&st)==3){P[n].pid=pid;P[n].pp=pp;P[n].t=(double)(ut+st)/hz;P[n].in=pid==root;n++;} }
  closedir(d); int ch=1; while(ch){ch=0; for(int i=0;i<n;i++) if(!P[i].in) for(int j=0;j<n;j++) if(P[j].in&&P[j].pid==P[i].pp){P[i].in=1;ch=1;break;}}
  double t=0; for(int i=0;i<n;i++) if(P[i].in) t+=P[i].t; return t; }
static int cmp(const void*a,const void*b){uint32_t x=*(uint32_t*)a,y=*(uint32_t*)b;return x<y?-1:x>y;}
static double selfcpu(){struct rusage r;getrusage(RUSAGE_SELF,&r);return r.ru_utime.tv_sec+r.ru_stime.tv_sec+(r.ru_utime.tv_usec+r.ru_stime.tv_usec)*1e-6;}
int main(int ac,char**av){ int o; while((o=getopt(ac,av,"p:m:H:c:n:M:w:d:f:P:k:r:"))>0) switch(o){case'p':port=atoi(optarg);break;case'm':path=optarg;break;case'H':host=optarg;break;case'c':nconn=atoi(optarg);break;case'n':nsess=atoi(optarg);break;case'M':unary=!strcmp(optarg,"unary");break;case'w':warm=atof(optarg);break;case'r':rate=atof(optarg);break;case'd':dur=atof(optarg);break;case'f':prefix=optarg;break;case'P':spid=atoi(optarg);break;case'k':hk=optarg;break;default:return 2;}
  if(hk){char*q=strchr(hk,':');snprintf(hkname,64,"%.*s",(int)(q-hk),hk);snprintf(hkval,64,"%s",q+1);}
  if(rate)period=nsess/rate; lat=malloc(caplat*4); S=calloc(nsess,sizeof(Sess)); C=calloc(nconn,sizeof(Conn)); int ep=epoll_create1(0);
  nghttp2_session_callbacks*cb; nghttp2_session_callbacks_new(&cb); nghttp2_session_callbacks_set_send_callback(cb,sendcb); nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb,ondata); nghttp2_session_callbacks_set_on_header_callback(cb,onhdr); nghttp2_session_callbacks_set_on_stream_close_callback(cb,onclose);
  for(int i=0;i<nconn;i++){ Conn*c=C+i; c->fd=socket(AF_INET,SOCK_STREAM,0); struct sockaddr_in a={.sin_family=AF_INET,.sin_port=htons(port)}; inet_pton(AF_INET,host,&a.sin_addr); if(connect(c->fd,(void*)&a,sizeof a)){perror("connect");return 1;} int one=1; setsockopt(c->fd,IPPROTO_TCP,TCP_NODELAY,&one,sizeof one); fcntl(c->fd,F_SETFL,O_NONBLOCK);
    nghttp2_session_client_new(&c->s,cb,c); nghttp2_settings_entry iv[]={{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,1<<20},{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,1000},{NGHTTP2_SETTINGS_ENABLE_PUSH,0}}; nghttp2_submit_settings(c->s,0,iv,3); nghttp2_session_set_local_window_size(c->s,0,0,1<<24);
    struct epoll_event ev={.events=EPOLLIN,.data.ptr=c}; epoll_ctl(ep,EPOLL_CTL_ADD,c->fd,&ev); }
  for(int i=0;i<nsess;i++){ Sess*s=S+i; s->id=i; s->c=C+i%nconn; s->due=now()+0.2+(rate?period*i/nsess:0); char f[512]; snprintf(f,512,"%s.start.%d",prefix,i); s->first=rd(f); snprintf(f,512,"%s.%d",prefix,i); s->next=rd(f); if(!s->next.b)s->next=rd(prefix); if(!s->next.b){fprintf(stderr,"no payload %s\n",f);return 1;} snprintf(s->hv,64,hk?hkval:"",i); submit(s);} 
  for(int i=0;i<nconn;i++)flush(C+i);
  double t0=now(),tm=t0+warm,te=tm+dur,c0=0,s0=0; uint8_t buf[262144]; double last=0,ready=0;
  for(;;){ struct epoll_event ev[64]; int k=epoll_wait(ep,ev,64,rate?0:100); for(int i=0;i<k;i++){Conn*c=ev[i].data.ptr; ssize_t n=read(c->fd,buf,sizeof buf); if(n==0){fprintf(stderr,"closed by server; %s\n",emsg);return 7;} if(n<0)continue; ssize_t r=nghttp2_session_mem_recv(c->s,buf,n); if(r<0){fprintf(stderr,"recv %s\n",nghttp2_strerror(r));return 8;} flush(c);} 
    double t=now(); if(rate&&!stop){ for(int i=0;i<nsess;i++) if(S[i].idle&&S[i].due<=t){ Sess*s=S+i; s->idle=0; arm(s); nghttp2_session_resume_data(s->c->s,s->sid); } for(int i=0;i<nconn;i++) if(nghttp2_session_want_write(C[i].s)) flush(C+i); } if(!ready&&answered==nsess)ready=t-t0; if(!measuring&&t>=tm&&(ready||t>=t0+readymax)){measuring=1;tm=t;te=t+dur;c0=spid?cputree(spid):0;s0=selfcpu();} if(measuring&&t>=te){last=t;break;} if(errors>=1000)break; }
  stop=1; if(!last)last=now(); double el=last-tm,cs=spid?cputree(spid)-c0:0,cc=selfcpu()-s0; long tot=0; int zero=0,least=S[0].counted; for(int i=0;i<nsess;i++){tot+=S[i].counted; zero+=S[i].msgs==0; if(S[i].counted<least)least=S[i].counted;}
  qsort(lat,nlat,4,cmp);
  printf("%s n=%d c=%d %s: %.0f/s p50=%.3fms p99=%.3fms max=%.1fms srv_cpu=%.2f cores (%.1f us/msg) cli_cpu=%.2f errors=%ld starved=%d least=%d mean=%.1f ready=%.2fs %s | last:",unary?"unary":"bidi",nsess,nconn,path,nlat/el,nlat?lat[nlat/2]/1e3:0,nlat?lat[(size_t)(nlat*.99)]/1e3:0,nlat?lat[nlat-1]/1e3:0,cs/el,nlat?cs*1e6/nlat:0,cc/el,errors,zero,least,(double)tot/nsess,ready,emsg);
  for(size_t i=0;i<S[0].lastn&&i<200;i++)printf("%02x",S[0].last[i]); printf("\n"); return 0; }
