//! The same documents over gRPC, for the command line.

use c4_detect::observation::JobId;
use c4_proto::v1::{self, pictures_server::Pictures};
use tonic::{Request, Response, Status};

use super::{Page, View, report};

#[tonic::async_trait]
impl Pictures for Page {
    async fn get_picture(
        &self,
        request: Request<v1::GetPictureRequest>,
    ) -> Result<Response<v1::Picture>, Status> {
        let v1::GetPictureRequest { job, finding } = request.into_inner();
        let given = |name: String| Some(name).filter(|name| !name.is_empty());
        let view = View { job: given(job), finding: given(finding), ..View::default() };
        self.look(&view);
        self.drawn(&view).await;
        let document = self.document(&view).ok_or_else(|| Status::not_found(view.unknown()))?;
        let now_unix_us = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        Ok(Response::new(v1::Picture { json: document.to_string(), now_unix_us }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::Report>, Status> {
        let view = View { job: Some(request.into_inner().job), ..View::default() };
        self.look(&view);
        self.drawn(&view).await;
        let job = JobId(view.job.clone().unwrap_or_default());
        let picture = self.see.borrow().clone();
        match report::html(&picture, &self.events, &job, self.clock.now()) {
            Some(html) => Ok(Response::new(v1::Report { html })),
            None => Err(Status::not_found(view.unknown())),
        }
    }
}
